"""Time grids: three shifted schedules are in circulation, and published numbers depend on the one used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Grid(Protocol):
    """Times of a sampler, fp64 [num_steps + 1], strictly decreasing to 0."""

    def __call__(self, num_steps: int) -> Tensor: ...


def shifted(u: Tensor, shift: float) -> Tensor:
    """Timestep shift ``f(u) = s u / (1 + (s - 1) u)`` (SD3, arXiv:2403.03206 Eq. 23)."""
    return shift * u / (shift * u + (1 - u))  # in this order 1 stays 1: above it, a log-SNR is NaN


def check(shift: float, num_steps: int) -> None:
    """Raises ValueError unless shift > 0 and num_steps >= 1."""
    if not shift > 0:
        raise ValueError(f"grid shift = {shift} must be positive; SD3.5 uses 3.0")
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps} must be at least 1")


@dataclass(frozen=True)
class Double:
    """``f(linspace(1, f(1/1000), K))`` then 0: diffusers shifts a grid whose ends were shifted already.

    Flow-GRPO, DiffusionNFT, AWM and 2602.04663 all sample on this grid (huggingface/diffusers issue 13243).
    """

    shift: float = 3.0

    def __call__(self, num_steps: int) -> Tensor:
        check(self.shift, num_steps)
        lowest = shifted(torch.tensor(1e-3, dtype=torch.float64), self.shift)
        u = torch.linspace(1.0, float(lowest), num_steps, dtype=torch.float64)
        return torch.cat([shifted(u, self.shift), torch.zeros(1, dtype=torch.float64)])


@dataclass(frozen=True)
class Single:
    """``f(linspace(1, 0, K + 1))``: DanceGRPO, MixGRPO, UniRL."""

    shift: float = 3.0

    def __call__(self, num_steps: int) -> Tensor:
        check(self.shift, num_steps)
        return shifted(torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64), self.shift)


@dataclass(frozen=True)
class Sana:
    """``f(linspace(0.999, 0, K + 1))``: DPM-Solver++ in Sana's configuration, used by DGPO."""

    shift: float = 3.0

    def __call__(self, num_steps: int) -> Tensor:
        check(self.shift, num_steps)
        return shifted(torch.linspace(0.999, 0.0, num_steps + 1, dtype=torch.float64), self.shift)


@dataclass(frozen=True)
class AWM:
    """``Double`` with its first time 1 - 1e-3 and its last but one half the time before it (AWM's SA-Solver).

    Both bound jumps of the log-SNR. A grid whose second time is above 1 - 2e-3 starts halfway to it.
    """

    shift: float = 3.0

    def __call__(self, num_steps: int) -> Tensor:
        times = Double(self.shift)(num_steps)
        times[0] = 1 - min(1e-3, float(1 - times[1]) / 2)
        if num_steps > 1:
            times[-2] = times[-3] / 2
        return times
