"""mixture2d: an MLP flow on a Gaussian mixture in the plane; a run takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ablate.mixture2d.density import MODES
from ablate.mixture2d.network import BASE, MLP
from ablate.types import Cond
from ablate.weights_file import load_verified


class Mixture2D:
    """Prompts are "mode 0" .. "mode 7"; samples are points [n,2] and decode to themselves.

    Raises:
        IncompatibleRun: the shipped base is missing or its hash is wrong.
    """

    shape: tuple[int, ...] = (2,)
    lora_targets: Sequence[str] = ("layers.0", "layers.1", "layers.2", "out")

    def __init__(self) -> None:
        self.network: nn.Module = MLP()
        self.network.load_state_dict(load_verified(BASE))

    def encode(self, prompts: Sequence[str]) -> Cond:
        return {"label": torch.tensor([int(p.removeprefix("mode ")) if p else MODES for p in prompts])}

    def decode(self, x0: Tensor) -> Tensor:
        return x0

    def to(self, device: torch.device) -> Mixture2D:
        self.network.to(device)
        return self
