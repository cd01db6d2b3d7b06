"""DPM-Solver++ of first order: a deterministic step of DDIM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ablate.key import Draws
from ablate.samplers.gaussian import times_at
from ablate.samplers.grids import Grid
from ablate.types import Cond, Step, Velocity


@dataclass(frozen=True)
class DPM1:
    """``x' = (t'/t) x - (1 - t')(e^{-h} - 1) x0_hat``, h the gain in log((1 - t)/t) (arXiv:2211.01095).

    On the straight path of rectified flow it is DDIM(0) and Euler's step, up to rounding. Deterministic: no
    step has a density.

    Raises:
        ValueError: ``num_steps < 1``.
    """

    num_steps: int
    grid: Grid

    def __post_init__(self) -> None:
        self.times()

    def times(self) -> Tensor:
        return self.grid(self.num_steps)

    def step(self, velocity: Velocity, x: Tensor, k: int, cond: Cond, carry: Any, draws: Draws) -> Step:
        del carry, draws
        times = self.times()
        t, t_next = times[k], times[k + 1]
        v = velocity(x, times_at(times, k, x), cond)
        h = torch.log((1 - t_next) / t_next) - torch.log((1 - t) / t)  # inf at both ends, where e^{-h} is 0
        weight = -(1 - t_next) * torch.expm1(-h)
        return Step((t_next / t).to(x) * x + weight.to(x) * (x - t.to(x) * v), v, None, None)
