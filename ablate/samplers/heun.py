"""Heun's method: a second-order ODE solver that asks the network twice per step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ablate.key import Draws
from ablate.samplers.gaussian import euler_step, times_at
from ablate.samplers.grids import Grid
from ablate.types import Cond, Step, Velocity


@dataclass(frozen=True)
class Heun:
    """``x' = x + (t' - t)(v(x, t) + v(x + (t' - t) v, t'))/2`` (arXiv:2206.00364 Alg. 1, no churn).

    The last step is Euler's, as no network is asked at t = 0: 2 num_steps - 1 forwards. Deterministic: no
    step has a density. The velocity it returns is the one at x.

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
        plain = euler_step(times, velocity, x, k, cond)
        if k == self.num_steps - 1:
            return plain
        slope = velocity(plain.x, times_at(times, k + 1, x), cond)
        half = ((times[k + 1] - times[k]) / 2).to(x)
        return Step(x + half * (plain.v + slope), plain.v, None, None)
