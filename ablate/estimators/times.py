"""Which times an ELBO is evaluated at: ``(grid, draws) -> t [B,T], k [B,T]``, drawn per row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ablate.key import Draws


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
    """The first ``int(K fraction)`` of a random order of the grid's K times, per row (DiffusionNFT: 0.99)."""

    fraction: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"times.fraction = {self.fraction} must lie in (0, 1]")

    def __call__(self, grid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        steps = len(grid) - 1
        count = int(steps * self.fraction)
        if count < 1:
            raise ValueError(f"times.fraction = {self.fraction} of {steps} steps leaves none; raise it")
        return _on_grid(grid, draws.of("time").permutation(steps)[:, :count], draws)


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
