"""Weights that ship with the repository: safetensors beside a provenance file that holds their hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ablate.contract.errors import IncompatibleRun


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def provenance(weights: Path) -> dict[str, Any]:
    """The provenance file beside the weights: command, commit, seed, metrics, sha256.

    Raises:
        IncompatibleRun: it is missing.
    """
    path = weights.with_suffix(".json")
    if not path.exists():
        raise IncompatibleRun(
            f"{path} is missing, so {weights.name} cannot be verified; rebuild both with: make base"
        )
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def load_verified(weights: Path) -> dict[str, Tensor]:
    """The weights, once their hash is what the provenance file says.

    Raises:
        IncompatibleRun: a file is missing or the hash is wrong.
    """
    expected = provenance(weights)["sha256"]
    if not weights.exists():
        raise IncompatibleRun(
            f"{weights} is missing; restore it with git checkout, or rebuild it with: make base"
        )
    found = sha256(weights)
    if found != expected:
        raise IncompatibleRun(
            f"{weights} has sha256 {found[:12]}, its provenance file says {expected[:12]}; "
            "restore it with git checkout, or rebuild it with: make base"
        )
    return load_file(weights)
