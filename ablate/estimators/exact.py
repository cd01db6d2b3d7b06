"""The oracle: the log-density of a velocity field's flow, by the instantaneous change of variables.

For diagnostics. It scores a field and not one network evaluation, so it is no Estimator and cannot train.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ablate.estimators.trace import Directions
from ablate.key import Draws
from ablate.types import HALF_LOG_TWO_PI, Cond, Velocity

_RK4: Final = ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6))  # (node, weight) of each stage


@dataclass(frozen=True)
class Exact:
    """``log p(x0) = [log N(x_1; 0, I) + int_0^1 div v dt] / D`` along ``dx/dt = v`` (arXiv:1806.07366 Eq. 8).

    Integrated by RK4 on a grid of its own: the density of the continuous flow, from which what a sampler of K
    steps draws differs by that sampler's discretisation.

    Attributes:
        num_steps: equal steps from t = 0 to t = 1, four evaluations each.
        trace: how the divergence is computed; its directions are drawn once per sample, not per step.

    Raises:
        ValueError: ``num_steps < 1``.
    """

    num_steps: int
    trace: Directions

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"estimator.num_steps = {self.num_steps} must be at least 1")

    @torch.no_grad()
    def log_prob(self, velocity: Velocity, x0: Tensor, cond: Cond, draws: Draws) -> Tensor:
        """log p(x0 | cond) in nats per dimension [B]."""
        slope = partial(_slope, velocity, cond, self.trace(x0, draws))
        x, gained, dt = x0, x0.new_zeros(len(x0)), 1 / self.num_steps
        for step in range(self.num_steps):
            start, v = x, torch.zeros_like(x)
            for node, weight in _RK4:
                v, divergence = slope(start + node * dt * v, (step + node) * dt)
                x, gained = x + weight * dt * v, gained + weight * dt * divergence
        normal = (-0.5 * x.square() - HALF_LOG_TWO_PI).flatten(1).mean(1)
        return normal + gained / x0[0].numel()


def _slope(velocity: Velocity, cond: Cond, directions: Tensor, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """v [B,*D] and its divergence [B] at one time."""
    at = x.new_full((len(x),), t)
    v, divergence = x, x.new_zeros(len(x))
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no forward-mode derivative
        for z in directions:
            v, along, *_ = torch.func.jvp(lambda y: velocity(y, at, cond), (x,), (z,))
            divergence = divergence + (z * along).flatten(1).sum(1)
    return v, divergence
