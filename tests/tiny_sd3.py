"""A real SD3 transformer, small enough for tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from ablate.types import Cond


class _SD3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer: nn.Module = SD3Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=3,
            out_channels=3,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=8,
            joint_attention_dim=12,
            caption_projection_dim=16,
            pooled_projection_dim=12,
            pos_embed_max_size=4,
            qk_norm="rms_norm",
        )

    def forward(self, x_t: Tensor, t: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
        out: Tensor = self.transformer(x_t, embeds, pooled, 1000 * t, return_dict=False)[0]
        return out


class SD3:
    """A real SD3 transformer of two blocks; prompts are hashed to embeddings."""

    shape: tuple[int, ...] = (3, 4, 4)
    lora_targets: Sequence[str] = (
        "attn.to_q",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_k_proj",
        "ff.net.0.proj",
    )

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network: nn.Module = _SD3()
            for parameter in self.network.parameters():
                nn.init.normal_(
                    parameter, std=0.2
                )  # diffusers starts some layers at 0: a LoRA below has no gradient

    def encode(self, prompts: Sequence[str]) -> Cond:
        length = torch.tensor([float(len(prompt)) for prompt in prompts])
        wave = (length[:, None] * torch.arange(1, 13) / 7).sin()
        return {"embeds": wave[:, None].repeat(1, 2, 1), "pooled": wave.cos()}

    def decode(self, x0: Tensor) -> Tensor:
        return x0

    def to(self, device: torch.device) -> SD3:
        self.network.to(device)
        return self
