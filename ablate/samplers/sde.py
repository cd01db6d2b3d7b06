"""Flow-SDE: the stochastic sampler of Flow-GRPO, on all steps or on a window of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ablate.key import Draws
from ablate.samplers import gaussian
from ablate.samplers.gaussian import Coefficients, Level
from ablate.samplers.grids import Grid
from ablate.samplers.tail import Tail
from ablate.samplers.windows import Window, check
from ablate.types import Cond, Step, Transition, Velocity


@dataclass(frozen=True)
class FlowSDE:
    """``kappa = t' + s^2 dt/(2t)``, ``std = s sqrt(-dt)`` (arXiv:2505.05470 Eq. 9).

    Here ``s = noise_level sqrt(t/(1 - t))`` and ``dt = t' - t``, which is negative.

    Attributes:
        noise_level: a > 0, or a list with one for each step; 0.7 in Flow-GRPO.
        window: steps that are stochastic and scored, the others being Euler steps. None: every step is
            stochastic and all but the last are scored, as the last one's std is too small to score.
        tail: takes the steps after the window with fewer network calls. None: every step is one.

    Raises:
        ValueError: a number is out of range, the window does not fit the steps, or a tail follows no window.
    """

    num_steps: int
    grid: Grid
    noise_level: Level
    window: Window | None = None
    tail: Tail | None = None

    def __post_init__(self) -> None:
        gaussian.check_level("noise_level", self.noise_level)
        self.times()
        check(self.window, self.num_steps)
        self.coefficients(torch.arange(self.num_steps))
        if self.tail is not None and self.window is None:
            raise ValueError(
                "sampler.tail is set, but sampler.window = null never ends: give a window, or no tail"
            )

    def times(self) -> Tensor:
        return self.grid(self.num_steps)

    def coefficients(self, k: Tensor) -> Coefficients:
        """c1, c2, std of steps ``k`` [B], each [B] fp64."""
        times = self.times()
        t, t_next = times[k.cpu()], times[k.cpu() + 1]
        level = gaussian.level_at(self.noise_level, k, self.num_steps)
        # t clamped: s is singular at t = 1, where grids begin
        return gaussian.langevin(t, t_next, level * torch.sqrt(t / (1 - t.clamp(max=times[1]))))

    def transition(self, x: Tensor, k: Tensor) -> Transition:
        return gaussian.transition(self.coefficients(k), x)

    def step(self, velocity: Velocity, x: Tensor, k: int, cond: Cond, carry: Any, draws: Draws) -> Step:
        if self.tail is not None:
            return self.tail.step(self, velocity, x, k, cond, carry, draws)
        return gaussian.windowed_step(self, velocity, x, k, cond, carry, draws)
