"""The pretrained base of the `shapes` bed, checked against its provenance before it is used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file

from ablate.contract.errors import IncompatibleRun
from ablate.shapes.network import ShapesNet

DATA = Path(__file__).parent / "data"
WEIGHTS, PROVENANCE = "base.safetensors", "base.json"


def provenance(folder: Path = DATA) -> dict[str, object]:
    """How the base was made and what it scores: command, recipe, versions, metrics, sha256.

    Raises:
        IncompatibleRun: the file is missing.
    """
    path = folder / PROVENANCE
    if not path.is_file():
        raise IncompatibleRun(f"{path} is missing; run `make base` to build the base anew")
    content: dict[str, object] = json.loads(path.read_text())
    return content


def load_base(folder: Path = DATA) -> ShapesNet:
    """The base network in evaluation mode, its parameters frozen.

    Raises:
        IncompatibleRun: the weights are missing or not those of the provenance file.
    """
    path, expected = folder / WEIGHTS, provenance(folder)["sha256"]
    if not path.is_file():
        raise IncompatibleRun(f"{path} is missing; run `make base` to build the base anew")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise IncompatibleRun(
            f"{path} has sha256 {found}, {PROVENANCE} says {expected}; restore it, or run `make base`"
        )
    net = ShapesNet()
    net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False)
