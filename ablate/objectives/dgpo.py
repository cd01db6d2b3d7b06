"""DGPO: the better part of a group against the worse, as one logistic preference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ablate.groups import group_mean
from ablate.types import Evaluation, Feedback, Loss, Role, Scope


@dataclass(frozen=True)
class DGPO:
    """``-w A L(v)``, ``w = sg[sigmoid(-sharpness mean_group A (L(v) - L(v_reference)))]`` (arXiv:2510.08425).

    The gradient, up to a factor, of ``softplus`` of that mean: w starts at 1/2 and falls as the group's
    preference is met. A row is held (no gradient) where ``r = exp(L(v) - L(v_old))`` has left ``1 +- c`` the
    way A pushes it. The published L is estimator=elbo_uniform with times and noise tied in a group.

    Attributes:
        sharpness: beta_dpo; 100, 10 for PickScore, 2000 with reference = old.
        clip: c in (0, 1); 1e-2.
        reference: whom the preference is measured from: ref, or old for the moving reference.

    Raises:
        ValueError: a number is out of range.
    """

    sharpness: float
    clip: float
    reference: Role = "ref"
    scope: ClassVar[Scope] = "group"

    def __post_init__(self) -> None:
        if not self.sharpness > 0:
            raise ValueError(f"objective.sharpness = {self.sharpness} must be positive; DGPO uses 100.0")
        if not 0 < self.clip < 1:
            raise ValueError(f"objective.clip = {self.clip} must lie in (0, 1); DGPO uses 1.0e-2")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"log_prob:old", f"log_prob:{self.reference}"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        score = ev.log_prob.detach()
        met = group_mean(fb.advantage * (score - ev.log_prob_of[self.reference]), fb.group)
        weight = torch.sigmoid(-self.sharpness * met)
        ratio = (score - ev.log_prob_of["old"]).exp()
        too_good = (fb.advantage > 0) & (ratio > 1 + self.clip)
        held = too_good | ((fb.advantage <= 0) & (ratio < 1 - self.clip))
        loss = -weight * fb.advantage * torch.where(held, score, ev.log_prob)
        return Loss(loss, {"clip_fraction": held.float().mean(), "weight": weight.mean()})
