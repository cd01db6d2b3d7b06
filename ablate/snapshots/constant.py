"""A decay that never changes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """``d = value``: 0 copies theta at every turn, 1 freezes the role.

    Raises:
        ValueError: ``value`` outside [0, 1].
    """

    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"snapshot decay = {self.value} must lie in [0, 1]: 0 copies, 1 freezes")

    def __call__(self, step: int) -> float:
        del step
        return self.value
