"""A compressed tail: after the SDE window, fewer network calls than steps (MixGRPO-Flash)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ablate.key import Draws
from ablate.samplers.gaussian import Kernel, times_at, windowed_step
from ablate.types import Cond, Step, Velocity


class Call(NamedTuple):
    """What the last network call left: where it was, its clean estimate, and that one's slope in log-SNR."""

    chosen: Sequence[int]
    k: int
    x: Tensor
    v: Tensor
    x0_hat: Tensor
    slope: Tensor | None


@dataclass(frozen=True)
class Tail:
    """DPM-Solver++ 2M (arXiv:2211.01095) from the window's end, asked at a share of the steps.

    MixGRPO-Flash (arXiv:2507.21802): ``max(1, int((K - last) ratio) - 1)`` calls after the window's ``last``
    step, as its code counts them, evenly spread over the grid's own times; the code shifts a grid anew. Steps
    in between follow the solver's solution from the last call and cost nothing; their ``Step.v`` is the
    call's, so estimators that keep all states should not be fed by it. The last stretch is of first order.

    Attributes:
        ratio: in (0, 1]; 0.4, and 0.2 with a window that stays ("Flash*").

    Raises:
        ValueError: ``ratio`` is out of range.
    """

    ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"sampler.tail.ratio = {self.ratio} must lie in (0, 1]; MixGRPO-Flash uses 0.4")

    def calls(self, last: int, num_steps: int) -> list[int]:
        """The steps after ``last`` at which the network is asked."""
        count, first = max(1, int((num_steps - last) * self.ratio) - 1), last + 1
        return [first + round((num_steps - first) * j / count) for j in range(count)]

    def step(
        self,
        kernel: Kernel,
        velocity: Velocity,
        x: Tensor,
        k: int,
        cond: Cond,
        carry: Call | None,
        draws: Draws,
    ) -> Step:
        """As the kernel until its window ends, as the solver after it."""
        if carry is None or k <= max(carry.chosen):
            step = windowed_step(kernel, velocity, x, k, cond, carry and carry.chosen, draws)
            x0_hat = x - kernel.times()[k].to(x) * step.v
            return replace(step, carry=Call(step.carry, k, x, step.v, x0_hat, None))
        times = kernel.times()
        calls = self.calls(max(carry.chosen), kernel.num_steps)
        log_snr = torch.log((1 - times) / times)
        if k in calls:
            v = velocity(x, times_at(times, k, x), cond)
            x0_hat = x - times[k].to(x) * v
            since = (log_snr[k] - log_snr[carry.k]).to(x)
            slope = None if k == calls[-1] else (x0_hat - carry.x0_hat) / (2 * since)
            carry = Call(carry.chosen, k, x, v, x0_hat, slope)
        t, t_next = times[carry.k].to(x), times[k + 1].to(x)
        h = (log_snr[k + 1] - log_snr[carry.k]).to(x)
        clean = carry.x0_hat if carry.slope is None else carry.x0_hat + h * carry.slope
        x_next = t_next / t * carry.x - (1 - t_next) * torch.expm1(-h) * clean
        return Step(x_next, carry.v, None, carry)
