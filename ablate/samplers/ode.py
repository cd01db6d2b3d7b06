"""Euler integration of the probability-flow ODE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ablate.key import Draws
from ablate.samplers.gaussian import euler_step
from ablate.samplers.grids import Grid
from ablate.types import Cond, Step, Velocity


@dataclass(frozen=True)
class EulerODE:
    """``x' = x + (t' - t) v``. Deterministic: no step has a density.

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
        return euler_step(self.times(), velocity, x, k, cond)
