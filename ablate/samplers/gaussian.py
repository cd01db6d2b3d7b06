"""Gaussian steps ``x' = c1 x + c2 v + std eps``: the one family all stochastic samplers belong to.

In terms of the clean and noise estimates the step is ``(1 - t') x0_hat + kappa x1_hat + std eps``, so a
sampler is two numbers per step, kappa and std. It draws and scores with the same two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ablate.key import Draws
from ablate.protocols import HasTransition
from ablate.samplers.windows import Window
from ablate.types import Cond, Step, Transition, Velocity

Level = float | Sequence[float]  # of noise: one number, or one for every step of the grid


class Coefficients(NamedTuple):
    """c1, c2, std of steps ``k``, each [B] fp64."""

    c1: Tensor
    c2: Tensor
    std: Tensor


class Kernel(HasTransition, Protocol):
    """A sampler that draws from its own transition, on the steps of its window."""

    @property
    def num_steps(self) -> int: ...

    @property
    def window(self) -> Window | None: ...

    def times(self) -> Tensor: ...


def coefficients(t: Tensor, t_next: Tensor, kappa: Tensor, std: Tensor) -> Coefficients:
    """``c1 = (1 - t') + kappa``, ``c2 = kappa (1 - t) - (1 - t') t``; all [B]."""
    return Coefficients((1 - t_next) + kappa, kappa * (1 - t) - (1 - t_next) * t, std)


def langevin(t: Tensor, t_next: Tensor, s: Tensor) -> Coefficients:
    """A step of the SDE with diffusion ``s``: ``kappa = t' + s^2 dt/(2t)``, ``std = s sqrt(-dt)``; all [B].

    Euler and Maruyama's, with ``dt = t' - t < 0``.
    """
    dt = t_next - t
    return coefficients(t, t_next, t_next + s.square() * dt / (2 * t), s * torch.sqrt(-dt))


def level_at(level: Level, k: Tensor, num_steps: int) -> Tensor:
    """The noise level of steps ``k`` [B] -> [B] fp64.

    Raises:
        ValueError: a list has not one level for each of ``num_steps``.
    """
    levels = [level] * num_steps if isinstance(level, int | float) else level
    if len(levels) != num_steps:
        raise ValueError(
            f"{len(levels)} noise levels do not fit sampler.num_steps = {num_steps}: "
            "give one number for all steps, or a list with one for each"
        )
    return torch.tensor(levels, dtype=torch.float64)[k.cpu()]


def check_level(name: str, level: Level, most: float = float("inf")) -> None:
    """Raises ValueError unless every level lies in (0, most]."""
    for value in [level] if isinstance(level, int | float) else level:
        if not 0 < value <= most:
            bound = "" if most == float("inf") else f" and at most {most:g}"
            raise ValueError(
                f"sampler.{name} = {value} must be positive{bound}; for a deterministic sampler: sampler=ode"
            )


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


def windowed_step(
    kernel: Kernel,
    velocity: Velocity,
    x: Tensor,
    k: int,
    cond: Cond,
    carry: Sequence[int] | None,
    draws: Draws,
) -> Step:
    """Stochastic in the kernel's window, which its first step chooses and ``carry`` hands on; else Euler.

    All stochastic steps but the grid's last are scored.
    """
    if carry is None:
        steps = kernel.num_steps
        carry = range(steps) if kernel.window is None else kernel.window(steps, draws.key)
    if k in carry:
        scored = k < kernel.num_steps - 1
        step = stochastic_step(kernel, velocity, x, k, cond, scored=scored, draws=draws)
    else:
        step = euler_step(kernel.times(), velocity, x, k, cond)
    return replace(step, carry=carry)
