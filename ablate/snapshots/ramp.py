"""A decay that stays flat, then rises linearly to a cap."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """``d = min(start + slope max(0, step - flat), end)``.

    DiffusionNFT's types are (flat, slope, end) = (0, .001, .5) and (75, .0075, .999).

    Raises:
        ValueError: a number is out of range.
    """

    slope: float
    end: float
    flat: int = 0
    start: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"snapshot decay must satisfy 0 <= start = {self.start} <= end = {self.end} <= 1"
            )
        if self.slope < 0 or self.flat < 0:
            raise ValueError(f"snapshot slope = {self.slope} and flat = {self.flat} must not be negative")

    def __call__(self, step: int) -> float:
        return min(self.start + self.slope * max(0, step - self.flat), self.end)
