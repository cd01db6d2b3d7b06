"""The decay of an evaluation average, short at first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Warmup:
    """``d = min((1 + step)/(10 + step), value)``: early on the average forgets the untrained weights quickly.

    Raises:
        ValueError: ``value`` outside [0, 1].
    """

    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"snapshot decay = {self.value} must lie in [0, 1]: 0 copies, 1 freezes")

    def __call__(self, step: int) -> float:
        return min((1 + step) / (10 + step), self.value)
