"""How much each sibling's endpoint counts at a state: ``(square, t) -> w [B,G]``, rows of which add to 1.

``square`` [B,G] holds ``|x_t - (1 - t) x0_j|^2``, summed over ``*D``; the row itself comes first. In high
dimension it is nearly all the same for all siblings and far less for the row itself: a bandwidth that follows
it picks either one endpoint or none. Hence the last two, which say what is wanted instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_TINY = 1e-12
_HALVINGS = 60


class SiblingWeights(Protocol):
    """Weights [B,G] of the group's endpoints at each row's state; t [B]."""

    def __call__(self, square: Tensor, t: Tensor) -> Tensor: ...


def effective_number(w: Tensor) -> Tensor:
    """Kish's effective sample size ``1 / sum w^2`` of weights that add to 1: [B,G] -> [B]."""
    return 1 / w.square().sum(1)


def _above_nearest(square: Tensor) -> Tensor:
    return square - square.amin(1, keepdim=True)


@dataclass(frozen=True)
class Equal:
    """``1/G``: the group's covariance, one direction for all states of a prompt."""

    def __call__(self, square: Tensor, t: Tensor) -> Tensor:
        del t
        return torch.full_like(square, 1 / square.shape[1])


@dataclass(frozen=True)
class Kernel:
    """``w_j ~ exp(-square_j / (2 h^2))``, ``h = bandwidth t``, or ``bandwidth`` itself if not ``relative``.

    ``bandwidth = 1`` is the posterior of the group's empirical measure, exactly (arXiv:2608.14430 takes a
    kernel; its bandwidth is not known to us). With D = 65,536 it is one-hot for t <= 0.96.

    Raises:
        ValueError: ``bandwidth <= 0``.
    """

    bandwidth: float
    relative: bool = True

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise ValueError(f"weights.bandwidth = {self.bandwidth} must be positive; 1.0 is the posterior")

    def __call__(self, square: Tensor, t: Tensor) -> Tensor:
        h = self.bandwidth * (t if self.relative else torch.ones_like(t))
        return (-_above_nearest(square) / (2 * h.square())[:, None]).softmax(1)


@dataclass(frozen=True)
class Median:
    """``w_j ~ exp(-square_j ln 2 / (factor m))``: a median sibling has half the weight of one at distance 0.

    m is the lower median of ``square`` over the group, the row included (PWVM in 2602.04663's code), or its
    excess over the least of them if ``above_nearest``. With D = 65,536 the first weighs all alike.

    Raises:
        ValueError: ``factor <= 0``.
    """

    factor: float = 1.0
    above_nearest: bool = False

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"weights.factor = {self.factor} must be positive; PWVM uses 1.0")

    def __call__(self, square: Tensor, t: Tensor) -> Tensor:
        del t
        excess = _above_nearest(square)
        median = (excess if self.above_nearest else square).median(1, keepdim=True).values
        return (-excess * math.log(2) / (self.factor * median).clamp(min=_TINY)).softmax(1)


@dataclass(frozen=True)
class SelfWeight:
    """``share`` to the row itself, the rest in equal parts to its siblings: what any kernel comes to in the
    limit of many dimensions.

    Attributes:
        share: in [0, 1]; 1/G is ``Equal``, 1 leaves nothing of a direction centred on the weighted mean.

    Raises:
        ValueError: ``share`` outside [0, 1].
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"weights.share = {self.share} must lie in [0, 1]; 1/G weighs all alike")

    def __call__(self, square: Tensor, t: Tensor) -> Tensor:
        del t
        w = torch.full_like(square, (1 - self.share) / (square.shape[1] - 1))
        w[:, 0] = self.share
        return w


@dataclass(frozen=True)
class EffectiveShare:
    """A kernel whose bandwidth is solved for at each state, so that ``share G`` endpoints count.

    Where distances are equal no bandwidth can tell endpoints apart, and more of them count than asked.

    Raises:
        ValueError: ``share`` outside (0, 1].
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"weights.share = {self.share} must lie in (0, 1]; 1 weighs all alike")

    def __call__(self, square: Tensor, t: Tensor) -> Tensor:
        del t
        excess = _above_nearest(square)
        excess = excess / excess.mean(1, keepdim=True).clamp(min=_TINY)
        low, high = (excess.new_full((len(excess), 1), end) for end in (-20.0, 20.0))
        for _ in range(_HALVINGS):  # the effective number falls as the inverse temperature e^x rises
            middle = (low + high) / 2
            more = (
                effective_number((-excess * middle.exp()).softmax(1))[:, None] > self.share * square.shape[1]
            )
            low, high = torch.where(more, middle, low), torch.where(more, high, middle)
        return (-excess * high.exp()).softmax(1)
