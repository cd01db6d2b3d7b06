"""The small MLP velocity network of the mixture2d testbed."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ablate.mixture2d.density import MODES

BASE = Path(__file__).parent / "data" / "base.safetensors"
FREQUENCIES = 4


class MLP(nn.Module):
    """v(x_t, t, label): Fourier features of t, an embedding per class, three hidden layers."""

    def __init__(self, hidden: int = 96) -> None:
        super().__init__()
        self.label = nn.Embedding(MODES + 1, 16)
        self.layers = nn.ModuleList(
            [
                nn.Linear(2 + 2 * FREQUENCIES + 1 + 16, hidden),
                nn.Linear(hidden, hidden),
                nn.Linear(hidden, hidden),
            ]
        )
        self.out = nn.Linear(hidden, 2)
        self.register_buffer("rate", math.pi * 2.0 ** torch.arange(FREQUENCIES), persistent=False)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """x_t [B,2], t [B], label [B] i64 -> v [B,2]."""
        phase = t[:, None] * self.get_buffer("rate")
        h = torch.cat([x_t, t[:, None], phase.sin(), phase.cos(), self.label(label)], 1)
        for layer in self.layers:
            h = nn.functional.silu(layer(h))
        out: Tensor = self.out(h)
        return out
