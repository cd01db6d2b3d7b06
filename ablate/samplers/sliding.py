"""A window that slides over the steps as training goes on: MixGRPO's strategies (arXiv:2507.21802)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from ablate.contract.errors import IncompatibleRun
from ablate.key import Key
from ablate.samplers.windows import span


class Dwell(Protocol):
    """How many iterations a sliding window stays at ``start``, when windows end before step ``high``."""

    def __call__(self, start: int, high: int) -> int: ...


@dataclass(frozen=True)
class Sliding:
    """``width`` steps whose start moves by ``shift`` from 0, after ``dwell`` iterations (arXiv:2507.21802).

    The window never shrinks: its last start is ``high - width``. The release lets it shrink to nothing there.

    Attributes:
        high: windows end before this step; None: before the last one. The release takes num_steps - 2.
        wrap: start again after the last window; otherwise it stays there.
    """

    width: int
    shift: int
    high: int | None
    wrap: bool
    dwell: Dwell

    def check(self, num_steps: int) -> None:
        span(self.width, 0, self.high, num_steps)
        if self.shift < 1:
            raise ValueError(f"sampler.window.shift = {self.shift} must be 1 or more; to stay: windows.Fixed")

    def __call__(self, num_steps: int, key: Key) -> Sequence[int]:
        steps = span(self.width, 0, self.high, num_steps)
        last = len(steps) - self.width
        starts = [*range(0, last, self.shift), last]
        left_at = list(accumulate(self.dwell(start, len(steps)) for start in starts))
        turn = bisect_right(left_at, _iteration(key) % left_at[-1] if self.wrap else _iteration(key))
        start = starts[min(turn, len(starts) - 1)]
        return steps[start : start + self.width]


@dataclass(frozen=True)
class Steady:
    """``iterations`` at every start: MixGRPO's "progressive"."""

    iterations: int

    def __post_init__(self) -> None:
        _check_iterations(self.iterations)

    def __call__(self, start: int, high: int) -> int:
        return self.iterations


@dataclass(frozen=True)
class LinearDecay:
    """From ``n = iterations`` at start 0 linearly to ``max(1, n // 4)`` at ``high``: MixGRPO's "decay"."""

    iterations: int

    def __post_init__(self) -> None:
        _check_iterations(self.iterations)

    def __call__(self, start: int, high: int) -> int:
        end = max(1, self.iterations // 4)
        return round(self.iterations + (end - self.iterations) * start / high)


@dataclass(frozen=True)
class ExponentialDecay:
    """``ceil(iterations exp(-rate max(start - free, 0)))``: MixGRPO's "exp_decay", rate 0.1 and free 13."""

    iterations: int
    rate: float
    free: int

    def __post_init__(self) -> None:
        _check_iterations(self.iterations)
        if not self.rate > 0:
            raise ValueError(
                f"sampler.window.dwell.rate = {self.rate} must be positive; for 0: sliding.Steady"
            )

    def __call__(self, start: int, high: int) -> int:
        return math.ceil(self.iterations * math.exp(-self.rate * max(start - self.free, 0)))


def _check_iterations(iterations: int) -> None:
    if iterations < 1:
        raise ValueError(f"sampler.window.dwell.iterations = {iterations} must be 1 or more")


def _iteration(key: Key) -> int:
    if key.iteration is None:
        raise IncompatibleRun(
            "sampler.window moves with the iterations of a run, and an evaluation has none: "
            "evaluate with sampler@evaluation.sampler=ode"
        )
    return key.iteration
