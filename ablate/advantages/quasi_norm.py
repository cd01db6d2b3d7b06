"""Credit of one quasi-norm per group: the less its best samples stand out, the less a group counts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ablate.groups import group_mean, group_sum


@dataclass(frozen=True)
class QuasiNorm:
    """``scale a_i / (sum_group |a|^power)^(1/power)``, a the centred rewards (arXiv:2511.16955).

    Power 2 is a z-score over sqrt(G); the smaller the power, the less a group counts whose rewards are spread
    evenly, against one with an outlier.

    Attributes:
        power: > 0; 0.8 as published.
        scale: factor, > 0.
        floor: least norm, > 0.

    Raises:
        ValueError: a number is not positive.
    """

    power: float = 0.8
    scale: float = 1.0
    floor: float = 1e-6

    def __post_init__(self) -> None:
        for name, value in (("power", self.power), ("scale", self.scale), ("floor", self.floor)):
            if not value > 0:
                raise ValueError(f"advantage.{name} = {value} must be positive")

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        credit = rewards.double() - group_mean(rewards.double(), group)
        norm = group_sum(credit.abs().pow(self.power), group).pow(1 / self.power)
        return (self.scale * credit / norm.clamp(min=self.floor)).float()
