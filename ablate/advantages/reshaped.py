"""Another part's advantage, passed through a function: DiffusionNFT's modes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ablate.protocols import AdvantageFn


def positive_only(advantage: Tensor) -> Tensor:
    """``max(A, 0)``: nothing is pushed away from."""
    return advantage.clamp(min=0)


def negative_only(advantage: Tensor) -> Tensor:
    """``min(A, 0)``: nothing is imitated."""
    return advantage.clamp(max=0)


def one_only(advantage: Tensor) -> Tensor:
    """1 where A > 0, else 0."""
    return (advantage > 0).to(advantage)


def binary(advantage: Tensor) -> Tensor:
    """The sign of A; 0 where A is 0."""
    return advantage.sign()


@dataclass(frozen=True)
class Reshaped:
    """``reshape(A)`` (``adv_mode`` of arXiv:2509.16117's code); a group's credit need not add to 0.

    Attributes:
        of: the part that gives A.
        reshape: one of this module's functions, element by element.
    """

    of: AdvantageFn
    reshape: Callable[[Tensor], Tensor]

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        return self.reshape(self.of(rewards, group))
