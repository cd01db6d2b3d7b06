"""Flow-DPPO: the unclipped ratio, but no step further away once the policies have diverged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class DPPO:
    """``-A r`` unless ``KL(old's step || theta's) >= gate`` and A pushes r further from 1 (arXiv:2606.11025).

    ``r = exp(L(v) - L(v_old))``; the KL is ``mean (mu - mu_old)^2 / (2 std^2)``, exact for Gaussian steps,
    where a single ratio is only a noisy sign of it.

    Attributes:
        gate: in nats per dimension, > 0; 1e-5 as released.

    Raises:
        ValueError: ``gate <= 0``.
    """

    gate: float
    scope: ClassVar[Scope] = "sample"

    def __post_init__(self) -> None:
        if not self.gate > 0:
            raise ValueError(f"objective.gate = {self.gate} must be positive; Flow-DPPO uses 1.0e-5")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"log_prob:old", "v:old"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        log_ratio = ev.log_prob - ev.log_prob_of["old"]
        divergence = ev.query.scored_step().transition.divergence(ev.v.detach(), ev.v_of["old"])
        outward = fb.advantage * log_ratio.detach() > 0
        dropped = (divergence >= self.gate) & outward
        # where, not a product with the mask: 0 times an overflowed ratio is NaN
        loss = torch.where(dropped, 0.0, -fb.advantage * log_ratio.masked_fill(dropped, 0.0).exp())
        return Loss(loss, {"drop_fraction": dropped.float().mean(), "divergence": divergence.mean()})
