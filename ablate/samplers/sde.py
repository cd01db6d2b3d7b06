"""Flow-SDE: the stochastic sampler of Flow-GRPO, on all steps or on a window of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ablate.key import Draws
from ablate.samplers import gaussian
from ablate.samplers.gaussian import Coefficients
from ablate.samplers.grids import Grid
from ablate.types import Cond, Step, Transition, Velocity


@dataclass(frozen=True)
class FlowSDE:
    """``kappa = t' + s^2 dt/(2t)``, ``std = s sqrt(-dt)`` (arXiv:2505.05470 Eq. 9).

    Here ``s = noise_level sqrt(t/(1 - t))`` and ``dt = t' - t``, which is negative.

    Attributes:
        noise_level: a > 0; 0.7 in Flow-GRPO.
        scored_steps: steps that are stochastic and scored, the others being Euler steps. None: every step is
            stochastic and all but the last are scored, as the last one's std is too small to score.

    Raises:
        ValueError: a number is out of range.
    """

    num_steps: int
    grid: Grid
    noise_level: float
    scored_steps: Sequence[int] | None = None

    def __post_init__(self) -> None:
        self.times()
        if not self.noise_level > 0:
            raise ValueError(
                f"sampler.noise_level = {self.noise_level} must be positive; "
                "for a deterministic sampler: sampler=ode"
            )
        if self.num_steps < 2:
            raise ValueError("sampler.num_steps = 1 leaves no scored step; take at least 2")
        window = () if self.scored_steps is None else self.scored_steps
        wrong = [k for k in window if not 0 <= k < self.num_steps - 1]
        if wrong or (self.scored_steps is not None and not window):
            raise ValueError(
                f"sampler.scored_steps = {wrong} must be some of 0..{self.num_steps - 2}: "
                "the last transition is never scored; null is all of them"
            )

    def times(self) -> Tensor:
        return self.grid(self.num_steps)

    def coefficients(self, k: Tensor) -> Coefficients:
        """c1, c2, std of steps ``k`` [B], each [B] fp64."""
        times = self.times()
        t, t_next = times[k.cpu()], times[k.cpu() + 1]
        dt = t_next - t
        # t clamped: s is singular at t = 1, where grids begin
        noise = self.noise_level * torch.sqrt(t / (1 - t.clamp(max=times[1])))
        kappa = t_next + noise.square() * dt / (2 * t)
        return gaussian.coefficients(t, t_next, kappa, noise * torch.sqrt(-dt))

    def transition(self, x: Tensor, k: Tensor) -> Transition:
        return gaussian.transition(self.coefficients(k), x)

    def step(self, velocity: Velocity, x: Tensor, k: int, cond: Cond, carry: Any, draws: Draws) -> Step:
        del carry
        scored = k < self.num_steps - 1 if self.scored_steps is None else k in self.scored_steps
        if self.scored_steps is not None and not scored:
            return gaussian.euler_step(self.times(), velocity, x, k, cond)
        return gaussian.stochastic_step(self, velocity, x, k, cond, scored=scored, draws=draws)
