"""Hinge: PPO's clip in log space, without an exponential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class Hinge:
    """``max(0, c |A| - A log r)`` with ``log r = L(v) - L(v_old)`` (arXiv:2604.17415, its "matching" loss).

    The gradient is ``-A grad L`` until ``log r`` has gone c the way A pushes it, and 0 beyond.

    Attributes:
        clip: c > 0, in nats per dimension.

    Raises:
        ValueError: ``clip <= 0``.
    """

    clip: float
    scope: ClassVar[Scope] = "sample"

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ValueError(f"objective.clip = {self.clip} must be positive: at 0 nothing is learnt")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"log_prob:old"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        log_ratio = ev.log_prob - ev.log_prob_of["old"]
        margin = self.clip * fb.advantage.abs() - fb.advantage * log_ratio
        return Loss(margin.clamp(min=0), {"clip_fraction": (margin < 0).float().mean()})
