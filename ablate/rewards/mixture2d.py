"""Reward of the mixture2d testbed: is the point near its mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.mixture2d.density import centres
from ablate.types import Prompt


@dataclass(frozen=True)
class Mixture2DReward:
    """``near`` = 1 within ``radius`` of the prompt's mode, else 0.

    Raises:
        ValueError: ``radius <= 0``.
    """

    weights: Mapping[str, float]
    headline: str
    radius: float = 0.75

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"reward.radius = {self.radius} must be positive")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        mode = torch.tensor([int(p.text.removeprefix("mode ")) for p in prompts])
        distance = (images.cpu() - centres()[mode]).norm(dim=1)
        return {"near": (distance <= self.radius).float().to(images.device)}
