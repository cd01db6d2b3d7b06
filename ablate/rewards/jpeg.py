"""JPEG size: a reward that needs no weights (arXiv:2305.13301)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ablate.contract.errors import IncompatibleRun
from ablate.types import Prompt


@dataclass(frozen=True)
class JpegSize:
    """``compressibility = -kB / 500``, and its negative, of the image as a JPEG; a kB is 1000 bytes.

    Attributes:
        weights: weight of each score in the training total.
        headline: the score evaluations report first.
        quality: of the JPEG, as published 95.

    Raises:
        ValueError: ``quality`` outside [1, 95].
    """

    weights: Mapping[str, float]
    headline: str
    quality: int = 95

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise ValueError(f"reward.quality = {self.quality} must lie in 1..95, JPEG's useful range")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """images [n,3,H,W] in [0,1] -> {name: [n]} in fp32 on the images' device.

        Raises:
            IncompatibleRun: the policy does not decode to images.
        """
        if images.dim() != 4 or images.shape[1] != 3 or len(images) != len(prompts):
            raise IncompatibleRun(
                f"reward=jpeg measures images [n,3,H,W], one per prompt, not {list(images.shape)} "
                f"for {len(prompts)} prompts; choose the policy's own reward"
            )
        pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        sizes = torch.tensor([self._kilobytes(Image.fromarray(image)) for image in pixels])
        scaled = (sizes / 500).to(images.device)
        return {"compressibility": -scaled, "incompressibility": scaled}

    def _kilobytes(self, image: Image.Image) -> float:
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=self.quality)
        return buffer.tell() / 1000
