"""Which times an ELBO is evaluated at: ``(grid, draws) -> t [B,T], k [B,T]``, drawn per row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ablate.key import Draws

FirstTime = Literal["left_out", "like_others", "always"]


class TimeSelection(Protocol):
    """T times per row from the sampler's grid [K+1]; ``k`` is the grid step, 0 off the grid."""

    def __call__(self, grid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]: ...


def check_range(low: float, high: float) -> None:
    """Raises ValueError unless 0 <= low < high <= 1."""
    if not 0 <= low < high <= 1:
        raise ValueError(f"times from {low} to {high} must satisfy 0 <= low < high <= 1; t = 1 is noise")


@dataclass(frozen=True)
class All:
    """Every time of the grid but the final 0, in order."""

    def __call__(self, grid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        k = torch.arange(len(grid) - 1).expand(len(draws.numbers), -1)
        return _on_grid(grid, k, draws)


@dataclass(frozen=True)
class Permuted:
    """The first ``int(K fraction)`` of a random order of the grid's ``int(K among)`` noisiest times, per row.

    Of K = 10 steps DiffusionNFT (arXiv:2509.16117) takes 9, ``fraction = 0.99``, and the code of DGPO
    (arXiv:2510.08425) 4 of the first 7, or 5 for GenEval: ``fraction = 0.4``, ``among = 0.7`` or 0.5.
    """

    fraction: float = 0.99
    among: float = 1.0

    def __post_init__(self) -> None:
        for name, share in (("fraction", self.fraction), ("among", self.among)):
            if not 0 < share <= 1:
                raise ValueError(f"times.{name} = {share} must lie in (0, 1]")
        if self.fraction > self.among:
            raise ValueError(f"times.fraction = {self.fraction} exceeds times.among = {self.among}; lower it")

    def __call__(self, grid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        steps = len(grid) - 1
        count = int(steps * self.fraction)
        if count < 1:
            raise ValueError(f"times.fraction = {self.fraction} of {steps} steps leaves none; raise it")
        order = draws.of("time").permutation(int(steps * self.among))
        return _on_grid(grid, order[:, :count], draws)


@dataclass(frozen=True)
class StratifiedSteps:
    """One step of the grid in each of equal parts of its first ``int(K fraction)``, floored to whole steps.

    AWM's "discrete_wo_init", "discrete" and "discrete_with_init" (arXiv:2509.25050) are the three values of
    ``start``, with 6 of 90 %. The code of CRD (arXiv:2603.14128) is ``like_others`` with 20 of 99 %: of 10
    steps no part is wider than one, so that nothing is random, and the last time never comes up.

    Attributes:
        count: times per row.
        fraction: share of the grid, from its noisy end.
        start: the first time, pure noise, is never drawn, drawn as any other, or one of each row's ``count``.
    """

    count: int
    fraction: float
    start: FirstTime

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"times.fraction = {self.fraction} must lie in (0, 1]")
        if self.start not in ("left_out", "like_others", "always"):
            raise ValueError(f"times.start = {self.start} must be left_out, like_others or always")
        if self.count < 1 + (self.start == "always"):
            raise ValueError(
                f"times.count = {self.count} must be at least 1, or 2 with times.start = always; raise it"
            )

    def __call__(self, grid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        steps = len(grid) - 1
        first, end = int(self.start != "like_others"), int(steps * self.fraction)
        if end <= first:
            raise ValueError(f"times.fraction = {self.fraction} of {steps} steps leaves none; raise it")
        parts = self.count - (self.start == "always")
        edges = torch.tensor([first + (end - first) * j // parts for j in range(parts + 1)])
        low, width = edges[:-1].to(draws.numbers.device), edges.diff().to(draws.numbers.device)
        k = low + (draws.of("time").uniform(parts) * width).long()
        return _on_grid(grid, torch.nn.functional.pad(k, (self.count - parts, 0)), draws)


@dataclass(frozen=True)
class Stratified:
    """One uniform draw in each of ``count`` equal parts of [low, high], per row."""

    count: int
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_range(self.low, self.high)
        if self.count < 1:
            raise ValueError(f"times.count = {self.count} must be at least 1")

    def __call__(self, grid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        del grid
        u = draws.of("time").uniform(self.count)
        part = torch.arange(self.count, device=u.device)
        t = self.low + (self.high - self.low) * (part + u) / self.count
        return t, torch.zeros_like(t, dtype=torch.long)


@dataclass(frozen=True)
class PowerLaw:
    """``count`` independent draws per row from ``p(t) ~ t^exponent`` on [low, 1], by inversion.

    RAM's code (arXiv:2605.10759) draws 8 from ``p(t) = 2 t``, which is ``t = sqrt(u)``.
    """

    count: int
    exponent: float
    low: float = 0.0

    def __post_init__(self) -> None:
        check_range(self.low, 1.0)
        if self.count < 1:
            raise ValueError(f"times.count = {self.count} must be at least 1")
        if not self.exponent > -1:
            raise ValueError(
                f"times.exponent = {self.exponent} must exceed -1, or p(t) has no integral; RAM uses 1.0"
            )

    def __call__(self, grid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        del grid
        power = self.exponent + 1
        u = 1 - draws.of("time").uniform(self.count)  # in (0, 1]: t = 0 has no noise to tell from data
        t = (self.low**power + (1 - self.low**power) * u) ** (1 / power)
        return t, torch.zeros_like(t, dtype=torch.long)


@dataclass(frozen=True)
class OneTime:
    """The same time ``t`` for every row."""

    t: float

    def __post_init__(self) -> None:
        if not 0 < self.t <= 1:
            raise ValueError(f"times.t = {self.t} must lie in (0, 1]; t = 1 is noise")

    def __call__(self, grid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        del grid
        t = torch.full((len(draws.numbers), 1), self.t, device=draws.numbers.device)
        return t, torch.zeros_like(t, dtype=torch.long)


def _on_grid(grid: Tensor, k: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    device = draws.numbers.device
    return grid[k.cpu()].to(device, torch.float32), k.to(device)
