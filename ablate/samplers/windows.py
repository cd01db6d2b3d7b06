"""SDE windows: which steps of a rollout are stochastic and scored. The others are Euler steps.

A window is chosen once per rollout from the iteration's key alone, which is
the same for all processes and chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ablate.key import Key


class Window(Protocol):
    """Chooses steps out of 0 .. num_steps - 2; the last step is never scored."""

    def check(self, num_steps: int) -> None:
        """Raises ValueError if a choice could be empty, or could hold another step."""

    def __call__(self, num_steps: int, key: Key) -> Sequence[int]: ...


def check(window: Window | None, num_steps: int) -> None:
    """Raises ValueError unless every choice of the window can be scored; None is every step."""
    if num_steps < 2:
        raise ValueError(f"sampler.num_steps = {num_steps} leaves no scored step; take at least 2")
    if window is not None:
        window.check(num_steps)


@dataclass(frozen=True)
class Fixed:
    """The same ``steps`` in every iteration (MixGRPO's "frozen": the first ones)."""

    steps: Sequence[int]

    def check(self, num_steps: int) -> None:
        wrong = [k for k in self.steps if not 0 <= k < num_steps - 1]
        if wrong or not self.steps:
            raise ValueError(
                f"sampler.window.steps = {wrong or list(self.steps)} must be some of 0..{num_steps - 2}: "
                "the last transition is never scored"
            )

    def __call__(self, num_steps: int, key: Key) -> Sequence[int]:
        del num_steps, key
        return self.steps


@dataclass(frozen=True)
class RandomStart:
    """``width`` steps from a start drawn uniformly from ``low .. high - width`` in every iteration.

    Flow-GRPO-Fast draws it from 0 .. 2 (width 3 below 5 of 10 steps); MixGRPO calls it "random"
    (arXiv:2507.21802).

    Attributes:
        high: windows end before this step; None: before the last one.
    """

    width: int
    low: int
    high: int | None

    def check(self, num_steps: int) -> None:
        span(self.width, self.low, self.high, num_steps)

    def __call__(self, num_steps: int, key: Key) -> Sequence[int]:
        steps = span(self.width, self.low, self.high, num_steps)
        generator = key.of("window").generator()
        start = int(torch.randint(len(steps) - self.width + 1, (), generator=generator))
        return steps[start : start + self.width]


@dataclass(frozen=True)
class RandomSubset:
    """``width`` different steps of ``low .. high - 1``, drawn anew in every iteration.

    UniRL's recipes of DanceGRPO and Flow-DPPO (arXiv:2606.11025) draw 3 from the first half.
    """

    width: int
    low: int
    high: int | None

    def check(self, num_steps: int) -> None:
        span(self.width, self.low, self.high, num_steps)

    def __call__(self, num_steps: int, key: Key) -> Sequence[int]:
        steps = span(self.width, self.low, self.high, num_steps)
        order = torch.randperm(len(steps), generator=key.of("window").generator())
        return sorted(steps[i] for i in order[: self.width].tolist())


def span(width: int, low: int, high: int | None, num_steps: int) -> range:
    """The steps a window of ``width`` may hold."""
    top = num_steps - 1 if high is None else high
    if not (low >= 0 and top <= num_steps - 1 and 1 <= width <= top - low):
        raise ValueError(
            f"sampler.window: {width} of the steps {low}..{top - 1} must be 1 or more of 0..{num_steps - 2}: "
            "the last transition is never scored; change width, low or high"
        )
    return range(low, top)
