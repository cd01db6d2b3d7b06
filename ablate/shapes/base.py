"""The pretrained base of the `shapes` bed, checked against its provenance before it is used."""

from __future__ import annotations

from pathlib import Path

from ablate.shapes.network import ShapesNet
from ablate.weights_file import load_verified

BASE = Path(__file__).parent / "data" / "base.safetensors"


def load_base(weights: Path = BASE) -> ShapesNet:
    """The base network in evaluation mode, its parameters frozen.

    Raises:
        IncompatibleRun: the weights are missing or not those of the provenance file beside them.
    """
    net = ShapesNet()
    net.load_state_dict(load_verified(weights))
    return net.eval().requires_grad_(False)
