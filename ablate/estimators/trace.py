"""Directions ``z_i`` whose quadratic forms ``z_i' J z_i`` sum to the trace of J: exactly, or in the mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ablate.key import Draws


class Directions(Protocol):
    """For states x [B,*D] -> z [n,B,*D]; each of the n costs one evaluation."""

    def __call__(self, x: Tensor, draws: Draws) -> Tensor: ...


@dataclass(frozen=True)
class Axes:
    """The unit vectors: the exact trace, n = D. For tiny latents."""

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        del draws
        size = x[0].numel()
        axes = torch.eye(size, dtype=x.dtype, device=x.device).view(size, 1, *x.shape[1:])
        return axes.expand(size, *x.shape)


@dataclass(frozen=True)
class Hutchinson:
    """``n = probes`` vectors of random signs over ``sqrt(n)``: unbiased (arXiv:1810.01367).

    Raises:
        ValueError: ``probes < 1``.
    """

    probes: int

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise ValueError(f"trace.probes = {self.probes} must be at least 1; more probes, less noise")

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        u = draws.of("probe").uniform(self.probes, *x.shape[1:]).transpose(0, 1)
        signs = torch.where(u < 0.5, -1.0, 1.0).to(x)
        return signs / math.sqrt(self.probes)
