"""AWM's weightings of the denoising error ``l = mean (v - v*)^2``: ``(v, target, t) -> log p~`` [B].

Its ``t**2`` is ``TSquared``, its ``Uniform`` is ``Uniform``, both in ``ablate.estimators.weights``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ablate.estimators.weights import mean_square


@dataclass(frozen=True)
class Linear:
    """``-t l``: "t" in AWM's code (2602.04663's "t" is ``TSquared``)."""

    def __call__(self, v: Tensor, target: Tensor, t: Tensor) -> Tensor:
        return -t * mean_square(v, target)


@dataclass(frozen=True)
class GeneralizedHuber:
    """``-((l + floor)^power - floor^power) t / power`` (arXiv:2509.25050, ``ghuber``).

    The gradient's weight on l is ``t (l + floor)^(power - 1)``: the smaller the power, the less large errors
    count. Half of power 1/2 is AWM's ``huber``; power 1 is ``Linear``.

    Attributes:
        power: in (0, 1]; 0.25 as published.
        floor: bounds the weight of a perfect network, > 0.
        scale: a factor; 0.5 with power 0.5 makes it ``huber``, ``-t (sqrt(l + floor) - sqrt(floor))``.

    Raises:
        ValueError: a number is out of range.
    """

    power: float
    floor: float = 1e-10
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.power <= 1:
            raise ValueError(f"weighting.power = {self.power} must lie in (0, 1]; AWM uses 0.25")
        if not self.floor > 0 or not self.scale > 0:
            raise ValueError(f"weighting.floor = {self.floor} and scale = {self.scale} must be positive")

    def __call__(self, v: Tensor, target: Tensor, t: Tensor) -> Tensor:
        error: Tensor = (mean_square(v, target) + self.floor).pow(self.power) - self.floor**self.power
        return -self.scale * t / self.power * error
