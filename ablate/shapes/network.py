"""The `shapes` network: diffusers' SD3 transformer in pixel space, and a caption encoder learned with it.

Legend: B batch, L = 4 caption tokens, D = 64 their width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from ablate.shapes.scenes import COLORS, NUMBERS, RELATIONS, SHAPES

LENGTH, WIDTH = 4, 64
MIN_TIME = 0.05  # v = (x_t - x0_hat) / t is singular at t = 0

_SILENT = frozenset({"a", "and", "of"})  # words that tell two captions apart nowhere
_WORDS = ("", *SHAPES, *COLORS, *NUMBERS.values(), *(relation.split()[0] for relation in RELATIONS))
_NUMBER_OF = {word: number for number, word in enumerate(_WORDS)} | {
    ("crosses" if shape == "cross" else f"{shape}s"): _WORDS.index(shape) for shape in SHAPES
}


def tokenize(caption: str) -> list[int]:
    """The words of a caption as numbers, filled up to L with 0; "" gives the null caption.

    Raises:
        ValueError: a word is not of the bed's vocabulary, or there are too many.
    """
    words = [word for word in caption.split() if word not in _SILENT]
    unknown = [word for word in words if word not in _NUMBER_OF]
    if unknown or len(words) > LENGTH:
        raise ValueError(
            f"{caption!r} is no caption of the shapes bed; it knows the words {sorted(_NUMBER_OF)[1:]}"
        )
    return [_NUMBER_OF[word] for word in words] + [0] * (LENGTH - len(words))


class CaptionEncoder(nn.Module):
    """Token embedding plus learned positions; ``pooled`` comes of all tokens in order."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(_WORDS), WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.pool = nn.Sequential(nn.Linear(LENGTH * WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """tokens [B,L] i64 -> prompt_embeds [B,L,D], pooled [B,D]."""
        embeds = self.embedding(tokens) + self.position
        return {"prompt_embeds": embeds, "pooled": self.pool(embeds.flatten(1))}


class ShapesVelocity(nn.Module):
    """``v = (x_t - x0_hat) / max(t, 0.05)``: the transformer predicts the clean image.

    Predicting x0 instead of v is what makes a short pretraining work. Holds the transformer alone, to be
    copied or wrapped in LoRA per role.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x_t: Tensor, t: Tensor, prompt_embeds: Tensor, pooled: Tensor) -> Tensor:
        """x_t [B,3,16,16], t [B], prompt_embeds [B,L,D], pooled [B,D] -> v [B,3,16,16]."""
        x0_hat: Tensor = self.transformer(
            hidden_states=x_t,
            encoder_hidden_states=prompt_embeds,
            pooled_projections=pooled,
            timestep=1000 * t,
            return_dict=False,
        )[0]
        return (x_t - x0_hat) / t.clamp(min=MIN_TIME).view(-1, 1, 1, 1)


class ShapesNet(nn.Module):
    """Caption encoder ``text`` (frozen in RL) and ``transformer``; 0.99 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.text = CaptionEncoder()
        self.transformer: nn.Module = SD3Transformer2DModel(  # type: ignore[assignment, no-untyped-call]
            sample_size=16,
            patch_size=4,
            in_channels=3,
            out_channels=3,
            num_layers=3,
            num_attention_heads=4,
            attention_head_dim=24,
            joint_attention_dim=WIDTH,
            caption_projection_dim=96,
            pooled_projection_dim=WIDTH,
            pos_embed_max_size=4,
            qk_norm="rms_norm",
        )

    def encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> prompt_embeds [B,L,D], pooled [B,D]; "" is the null caption of guidance."""
        tokens = torch.tensor([tokenize(caption) for caption in captions], device=self.text.position.device)
        conditioning: dict[str, Tensor] = self.text(tokens)
        return conditioning

    def velocity(self) -> ShapesVelocity:
        """The velocity network, sharing this network's transformer."""
        return ShapesVelocity(self.transformer)
