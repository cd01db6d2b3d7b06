"""GRPO: PPO's clipped ratio with a group-standardised advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class GRPO:
    """``max(-A r, -A clip(r, 1 - c, 1 + c))`` with ``log r = L(v) - L(v_old)`` (arXiv:2505.05470 Eq. 5).

    Attributes:
        clip: c in (0, 1). Log-ratios are means over dimensions, so useful values are small: 1e-4 for SD3.5.
    """

    clip: float
    scope: ClassVar[Scope] = "sample"

    def __post_init__(self) -> None:
        if not 0 < self.clip < 1:
            raise ValueError(f"objective.clip = {self.clip} must lie in (0, 1); Flow-GRPO uses 1.0e-4")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"log_prob:old"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        ratio = (ev.log_prob - ev.log_prob_of["old"]).exp()
        bounded = ratio.clamp(1 - self.clip, 1 + self.clip)
        free, held = -fb.advantage * ratio, -fb.advantage * bounded
        return Loss(torch.maximum(free, held), {"clip_fraction": (held > free).float().mean()})
