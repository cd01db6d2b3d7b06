"""Weightings of the denoising error: ``(v, target, t) -> log p~`` [B], unnormalised, per dimension.

Names follow what they do, as the name "t" means two different weights in published code (2602.04663's and
AWM's).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Weighting(Protocol):
    """Scores a velocity against the target ``eps - x0`` at time ``t`` [B]."""

    def __call__(self, v: Tensor, target: Tensor, t: Tensor) -> Tensor: ...


def mean_square(v: Tensor, target: Tensor) -> Tensor:
    """``mean (v - target)^2`` over ``*D`` -> [B].

    Raises:
        ValueError: the shapes differ; broadcasting here would be a silent bug.
    """
    if v.shape != target.shape:
        raise ValueError(f"velocity {tuple(v.shape)} and target {tuple(target.shape)} must have one shape")
    return (v - target).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Uniform:
    """``-mean (v - v*)^2``: flow matching's own weight."""

    def __call__(self, v: Tensor, target: Tensor, t: Tensor) -> Tensor:
        del t
        return -mean_square(v, target)


@dataclass(frozen=True)
class TSquared:
    """``-t^2 mean (v - v*)^2 = -mean (x0_hat - x0)^2``: "t" in 2602.04663's code, "t**2" in AWM's."""

    def __call__(self, v: Tensor, target: Tensor, t: Tensor) -> Tensor:
        return -t.square() * mean_square(v, target)


@dataclass(frozen=True)
class Adaptive:
    """``-mean (x0_hat - x0)^2 / sg[max(mean |x0_hat - x0|, floor)]``, each network with its own normaliser.

    DiffusionNFT's self-normalised form (arXiv:2509.16117), the default of 2602.04663.
    """

    floor: float = 1e-5

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(
                f"weighting.floor = {self.floor} must be positive: a perfect network would divide by 0"
            )

    def __call__(self, v: Tensor, target: Tensor, t: Tensor) -> Tensor:
        size = (t * (v.detach() - target).abs().flatten(1).mean(1)).clamp(min=self.floor)
        return -t.square() * mean_square(v, target) / size


@dataclass(frozen=True)
class AdaptiveVelocity:
    """``-mean (v - v*)^2 / sg[max(mean |v - v*|, floor)]``, each network with its own normaliser.

    CRD's self-normalised form (arXiv:2603.14128): ``Adaptive`` without its factor t.
    """

    floor: float = 1e-5

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(
                f"weighting.floor = {self.floor} must be positive: a perfect network would divide by 0"
            )

    def __call__(self, v: Tensor, target: Tensor, t: Tensor) -> Tensor:
        del t
        return -mean_square(v, target) / (v.detach() - target).abs().flatten(1).mean(1).clamp(min=self.floor)


@dataclass(frozen=True)
class Likelihood:
    """``-(1 - t)/(t + floor) mean (v - v*)^2``: the path-KL weight, a true bound up to a constant.

    Called "exact" in 2602.04663's code; here ``exact`` means the oracle only. It is the continuous limit of
    the Flow-SDE step weight at noise level sqrt(2). ``floor`` bounds it at the clean end.
    """

    floor: float = 1e-3

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(
                f"weighting.floor = {self.floor} must be positive: the weight is singular at t = 0"
            )

    def __call__(self, v: Tensor, target: Tensor, t: Tensor) -> Tensor:
        return -(1 - t) / (t + self.floor) * mean_square(v, target)
