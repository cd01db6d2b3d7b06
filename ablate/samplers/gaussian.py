"""Gaussian steps ``x' = c1 x + c2 v + std eps``: the one family all stochastic samplers belong to.

In terms of the clean and noise estimates the step is ``(1 - t') x0_hat + kappa x1_hat + std eps``, so a
sampler is two numbers per step, kappa and std. It draws and scores with the same two.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ablate.key import Draws
from ablate.protocols import HasTransition
from ablate.types import Cond, Step, Transition, Velocity


class Coefficients(NamedTuple):
    """c1, c2, std of steps ``k``, each [B] fp64."""

    c1: Tensor
    c2: Tensor
    std: Tensor


class Kernel(HasTransition, Protocol):
    """A sampler that draws from its own transition."""

    def times(self) -> Tensor: ...


def coefficients(t: Tensor, t_next: Tensor, kappa: Tensor, std: Tensor) -> Coefficients:
    """``c1 = (1 - t') + kappa``, ``c2 = kappa (1 - t) - (1 - t') t``; all [B]."""
    return Coefficients((1 - t_next) + kappa, kappa * (1 - t) - (1 - t_next) * t, std)


def column(value: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B,1,..] with the dtype and device of ``like`` [B,*D]."""
    return value.to(like.device, like.dtype).view(-1, *[1] * (like.dim() - 1))


def transition(c: Coefficients, x: Tensor) -> Transition:
    """The transition from states ``x`` [B,*D]."""
    return Transition(column(c.c1, x) * x, column(c.c2, x), column(c.std, x))


def times_at(times: Tensor, k: int, x: Tensor) -> Tensor:
    """Time ``k`` of the grid for every row of ``x``: [B] fp32."""
    return times[k].to(x.device, torch.float32).expand(len(x))


def euler_step(times: Tensor, velocity: Velocity, x: Tensor, k: int, cond: Cond) -> Step:
    """``x' = x + (t' - t) v``; it has no density."""
    v = velocity(x, times_at(times, k, x), cond)
    return Step(x + (times[k + 1] - times[k]).to(x) * v, v, None, None)


def stochastic_step(
    kernel: Kernel, velocity: Velocity, x: Tensor, k: int, cond: Cond, *, scored: bool, draws: Draws
) -> Step:
    """Draw from the kernel's transition, and score the draw with that same transition if ``scored``."""
    v = velocity(x, times_at(kernel.times(), k, x), cond)
    step = kernel.transition(x, torch.full((len(x),), k, device=x.device))
    x_next = step.sample(v, draws.normal(*x.shape[1:]))
    return Step(x_next, v, step.log_prob(x_next, v) if scored else None, None)
