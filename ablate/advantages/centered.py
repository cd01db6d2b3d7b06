"""Centred rewards, without division by a standard deviation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ablate.groups import group_mean


@dataclass(frozen=True)
class Centered:
    """``scale (R - mean_group R)``; 2602.04663's recipes use scale = kl_coef / temperature = 0.1.

    Raises:
        ValueError: ``scale <= 0``.
    """

    scale: float = 0.1
    clip: float | None = None

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(
                f"advantage.scale = {self.scale} must be positive; below 0 it would minimise the reward"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"advantage.clip = {self.clip} must be positive, or null for none")

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        credit = rewards.double() - group_mean(rewards.double(), group)
        if self.clip is not None:
            credit = credit.clamp(-self.clip, self.clip)
        return (self.scale * credit).float()
