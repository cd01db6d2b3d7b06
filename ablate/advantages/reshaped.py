"""Another part's advantage, passed through a function: DiffusionNFT's modes, and increasing maps of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

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
class Power:
    """``sign(A) |A|^exponent``: below 1 it evens credit out, above 1 it favours the extremes.

    Raises:
        ValueError: ``exponent <= 0``.
    """

    exponent: float

    def __post_init__(self) -> None:
        if not self.exponent > 0:
            raise ValueError(
                f"advantage.reshape.exponent = {self.exponent} must be positive; 1 changes nothing"
            )

    def __call__(self, advantage: Tensor) -> Tensor:
        return advantage.sign() * advantage.abs().pow(self.exponent)


@dataclass(frozen=True)
class Softplus:
    """``2 temperature (log(1 + exp(A/temperature)) - log 2)``: slope 1 at 0 and 2 above, bounded below.

    Raises:
        ValueError: ``temperature <= 0``.
    """

    temperature: float

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"advantage.reshape.temperature = {self.temperature} must be positive")

    def __call__(self, advantage: Tensor) -> Tensor:
        at_zero = softplus(advantage.new_zeros(()))
        return 2 * self.temperature * (softplus(advantage / self.temperature) - at_zero)


@dataclass(frozen=True)
class Clipped:
    """``clip(A, low, high)``: how hard a bad sample may push away need not be how hard a good one may pull.

    Raises:
        ValueError: ``low <= 0 <= high`` does not hold, or both are 0.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= 0 <= self.high or self.low == self.high:
            raise ValueError(
                f"advantage.reshape.low = {self.low} and high = {self.high} must lie on both sides of 0"
            )

    def __call__(self, advantage: Tensor) -> Tensor:
        return advantage.clamp(self.low, self.high)


@dataclass(frozen=True)
class Reshaped:
    """``reshape(A)`` (``adv_mode`` of arXiv:2509.16117's code); a group's credit need not add to 0.

    Any increasing map may weigh a likelihood, negative values included (SiMPO, arXiv:2603.10250); its
    exponential is ``ablate.advantages.exponential``.

    Attributes:
        of: the part that gives A.
        reshape: of this module, element by element.
    """

    of: AdvantageFn
    reshape: Callable[[Tensor], Tensor]

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        return self.reshape(self.of(rewards, group))
