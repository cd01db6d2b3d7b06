"""Reward of the `shapes` bed: its verifier's strict and partial scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ablate.shapes.verifier import verify
from ablate.types import Prompt


@dataclass(frozen=True)
class ShapesReward:
    """``strict`` in {0,1} and ``partial`` in [0,1] of each image, after GenEval (arXiv:2310.11513).

    Attributes:
        weights: weight of each score in the training total.
        headline: the score evaluations report first.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"partial": 1.0})
    headline: str = "strict"

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """images [n,3,16,16] in [0,1] -> {"strict": [n], "partial": [n]} in fp32 on the images' device.

        Raises:
            ValueError: a prompt is not of this bed, or images and prompts differ in number.
        """
        pixels = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
        verdicts = [verify(image, prompt.metadata) for image, prompt in zip(pixels, prompts, strict=True)]
        return {
            "strict": torch.tensor([verdict.strict for verdict in verdicts], device=images.device),
            "partial": torch.tensor([verdict.partial for verdict in verdicts], device=images.device),
        }
