"""Standardised rewards: divided by the group's or by the whole iteration's standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ablate.groups import group_mean, group_std


def _check(clip: float | None, scale: float, floor: float) -> None:
    for name, value in (("clip", clip), ("scale", scale), ("floor", floor)):
        if value is not None and not value > 0:
            raise ValueError(f"advantage.{name} = {value} must be positive; null, for the clip, is none")


def _zscore(
    rewards: Tensor, group: Tensor, std: Callable[[Tensor], Tensor], bounds: tuple[float | None, float]
) -> Tensor:
    clip, floor = bounds
    values = rewards.double()  # equal rewards must give exactly 0, also after a mean over hundreds of them
    credit = (values - group_mean(values, group)) / (std(values) + floor)
    return credit if clip is None else credit.clamp(-clip, clip)


@dataclass(frozen=True)
class ZScoreGroup:
    """``scale clip((R - mean_group)/(std_group + floor), +-clip)``, population std (arXiv:2505.05470 Eq. 4).

    Raises:
        ValueError: a number is not positive.
    """

    clip: float | None = 5.0
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

    Without a clip it is RAM's (arXiv:2605.10759).

    Raises:
        ValueError: a number is not positive.
    """

    clip: float | None = 5.0
    scale: float = 1.0
    floor: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.clip, self.scale, self.floor)

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        credit = _zscore(rewards, group, lambda values: values.std(correction=0), (self.clip, self.floor))
        return (self.scale * credit).float()


@dataclass(frozen=True)
class ZScorePooled:
    """The same with the root mean square of all centred rewards: prompts that differ in ease do not count.

    Raises:
        ValueError: a number is not positive.
    """

    clip: float | None = 5.0
    scale: float = 1.0
    floor: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.clip, self.scale, self.floor)

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        def spread(values: Tensor) -> Tensor:
            return (values - group_mean(values, group)).square().mean().sqrt()

        return (self.scale * _zscore(rewards, group, spread, (self.clip, self.floor))).float()
