"""Dance-SDE: the stochastic sampler of DanceGRPO, Flow-SDE with a constant diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.key import Draws
from ablate.samplers import gaussian
from ablate.samplers.gaussian import Coefficients, Level
from ablate.samplers.grids import Grid
from ablate.samplers.windows import Window, check
from ablate.types import Cond, Step, Transition, Velocity


@dataclass(frozen=True)
class DanceSDE:
    """``kappa = t' + s^2 dt/(2t)``, ``std = s sqrt(-dt)``, ``s = noise_level`` (arXiv:2505.07818, its code).

    The last step returns x0_hat, as DanceGRPO's code does: with a constant s its noise would be seen.

    Attributes:
        noise_level: s > 0, or a list with one for each step; 0.3 in DanceGRPO.
        window: steps that are stochastic and scored, the others being Euler steps. None: all but the last.

    Raises:
        ValueError: a number is out of range, or the window does not fit the steps.
    """

    num_steps: int
    grid: Grid
    noise_level: Level
    window: Window | None = None

    def __post_init__(self) -> None:
        gaussian.check_level("noise_level", self.noise_level)
        self.times()
        check(self.window, self.num_steps)
        self.coefficients(torch.arange(self.num_steps))

    def times(self) -> Tensor:
        return self.grid(self.num_steps)

    def coefficients(self, k: Tensor) -> Coefficients:
        """c1, c2, std of steps ``k`` [B], each [B] fp64."""
        times = self.times()
        level = gaussian.level_at(self.noise_level, k, self.num_steps)
        return gaussian.langevin(times[k.cpu()], times[k.cpu() + 1], level)

    def transition(self, x: Tensor, k: Tensor) -> Transition:
        return gaussian.transition(self.coefficients(k), x)

    def step(
        self, velocity: Velocity, x: Tensor, k: int, cond: Cond, carry: Sequence[int] | None, draws: Draws
    ) -> Step:
        if k == self.num_steps - 1:
            return gaussian.euler_step(self.times(), velocity, x, k, cond)
        return gaussian.windowed_step(self, velocity, x, k, cond, carry, draws)
