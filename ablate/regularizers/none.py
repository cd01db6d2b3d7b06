"""No regularizer: no term, no forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.types import Evaluation, Feedback


@dataclass(frozen=True)
class NoRegularizer:
    """Zero, and free."""

    @property
    def uses(self) -> frozenset[str]:
        return frozenset()

    def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor:
        return torch.zeros_like(fb.advantage)
