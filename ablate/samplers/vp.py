"""Variance-preserving steps: CPS, DDIM(eta), SDE-DPM-Solver++, churn, DMD differ in one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ablate.key import Draws
from ablate.samplers import gaussian
from ablate.samplers.gaussian import Coefficients
from ablate.samplers.grids import Grid
from ablate.samplers.rho import Rho
from ablate.samplers.windows import Window, check
from ablate.types import Cond, Step, Transition, Velocity


@dataclass(frozen=True)
class VariancePreserving:
    """``x' = (1 - t') x0_hat + t' (rho x1_hat + sqrt(1 - rho^2) eps)``: ``kappa^2 + std^2 = t'^2`` exactly.

    The form of arXiv:2605.23522; sources of each rho are in ``ablate.samplers.rho``. The last step returns
    x0_hat, whatever rho.

    Attributes:
        rho: the share of the noise that is kept.
        window: steps that are stochastic and scored, the others being Euler steps. None: all but the last.
        normal: score draws by their density. False, as in Flow-CPS's code (arXiv:2509.05952): by minus the
            squared distance to the mean, whose gradient is 2 std^2 as large.

    Raises:
        ValueError: a number is out of range, or the window does not fit the steps.
    """

    num_steps: int
    grid: Grid
    rho: Rho
    window: Window | None = None
    normal: bool = True

    def __post_init__(self) -> None:
        self.times()
        check(self.window, self.num_steps)
        self.coefficients(torch.arange(self.num_steps))

    def times(self) -> Tensor:
        return self.grid(self.num_steps)

    def coefficients(self, k: Tensor) -> Coefficients:
        """c1, c2, std of steps ``k`` [B], each [B] fp64."""
        times, k = self.times(), k.cpu()
        t, t_next, rho = times[k], times[k + 1], self.rho(times, k)
        return gaussian.coefficients(t, t_next, t_next * rho, t_next * torch.sqrt(1 - rho.square()))

    def transition(self, x: Tensor, k: Tensor) -> Transition:
        return replace(gaussian.transition(self.coefficients(k), x), normal=self.normal)

    def step(
        self, velocity: Velocity, x: Tensor, k: int, cond: Cond, carry: Sequence[int] | None, draws: Draws
    ) -> Step:
        return gaussian.windowed_step(self, velocity, x, k, cond, carry, draws)
