"""shapes: diffusers' SD3 transformer on 16x16 images; a run takes minutes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ablate.shapes.base import load_base
from ablate.types import Cond


class Shapes:
    """Prompts are the bed's captions; latents are the pixels in [-1,1].

    Raises:
        IncompatibleRun: the shipped base is missing or its hash is wrong.
    """

    shape: tuple[int, ...] = (3, 16, 16)
    lora_targets: Sequence[str] = (
        *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("ff.net.0.proj", "ff.net.2"),
    )

    def __init__(self) -> None:
        self._net = load_base().eval().requires_grad_(False)
        self.network: nn.Module = self._net.velocity()

    def encode(self, prompts: Sequence[str]) -> Cond:
        return self._net.encode(prompts)

    def decode(self, x0: Tensor) -> Tensor:
        return ((x0 + 1) / 2).clamp(0, 1)

    def to(self, device: torch.device) -> Shapes:
        self._net.to(device)
        return self
