"""Advantages as the probability of being optimal: the map DiffusionNFT and CRD share."""

from __future__ import annotations

from torch import Tensor


def optimality(advantage: Tensor, bound: float) -> Tensor:
    """``q = clip(A, -bound, bound) / (2 bound) + 1/2`` in [0, 1], [B] (arXiv:2509.16117's code)."""
    return advantage.clamp(-bound, bound) / (2 * bound) + 0.5


def check_positive(name: str, value: float, cure: str) -> None:
    """Raises ValueError unless ``value > 0``."""
    if not value > 0:
        raise ValueError(f"objective.{name} = {value} must be positive; {cure}")
