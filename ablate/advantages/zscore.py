"""Standardised rewards: divided by the group's or by the whole iteration's standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ablate.groups import group_mean, group_std


def _check(clip: float, scale: float, floor: float) -> None:
    for name, value in (("clip", clip), ("scale", scale), ("floor", floor)):
        if not value > 0:
            raise ValueError(f"advantage.{name} = {value} must be positive")


def _zscore(
    rewards: Tensor, group: Tensor, std: Callable[[Tensor], Tensor], bounds: tuple[float, float]
) -> Tensor:
    clip, floor = bounds
    values = rewards.double()  # equal rewards must give exactly 0, also after a mean over hundreds of them
    return ((values - group_mean(values, group)) / (std(values) + floor)).clamp(-clip, clip)


@dataclass(frozen=True)
class ZScoreGroup:
    """``scale clip((R - mean_group)/(std_group + floor), +-clip)``, population std (arXiv:2505.05470 Eq. 4).

    Raises:
        ValueError: a number is not positive.
    """

    clip: float = 5.0
    scale: float = 1.0
    floor: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.clip, self.scale, self.floor)

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        credit = _zscore(rewards, group, lambda values: group_std(values, group), (self.clip, self.floor))
        return (self.scale * credit).float()


@dataclass(frozen=True)
class ZScoreGlobal:
    """The same with the standard deviation of all rewards of the iteration (Flow-GRPO's ``global_std``).

    Raises:
        ValueError: a number is not positive.
    """

    clip: float = 5.0
    scale: float = 1.0
    floor: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.clip, self.scale, self.floor)

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        credit = _zscore(rewards, group, lambda values: values.std(correction=0), (self.clip, self.floor))
        return (self.scale * credit).float()
