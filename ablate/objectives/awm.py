"""AWM: the clipped ratio of a weighted denoising likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ablate.types import Evaluation, Feedback, Loss, Role, Scope


@dataclass(frozen=True)
class AWM:
    """``max(-A r, -A clip(r, 1 - c, 1 + c))`` with ``log r = L(v) - L(v_role)`` (arXiv:2509.25050).

    GRPO's loss; what makes it AWM is estimator=elbo_awm (or elbo_huber, elbo_linear), advantage=awm and
    regularizer=awm. One ratio per time is the paper's "exp first"; batch.draws = the number of times averages
    L over them before the exponential, its "sum first".

    Attributes:
        clip: c in (0, 1]; 1, the published value, bounds the ratio to [0, 2] and is rarely active.
        role: whom the ratio compares with: old, or prox for the published off-policy option.

    Raises:
        ValueError: ``clip`` outside (0, 1].
    """

    clip: float
    role: Role = "old"
    scope: ClassVar[Scope] = "sample"

    def __post_init__(self) -> None:
        if not 0 < self.clip <= 1:
            raise ValueError(f"objective.clip = {self.clip} must lie in (0, 1]; AWM uses 1.0")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({f"log_prob:{self.role}"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        ratio = (ev.log_prob - ev.log_prob_of[self.role]).exp()
        free = -fb.advantage * ratio
        held = -fb.advantage * ratio.clamp(1 - self.clip, 1 + self.clip)
        return Loss(torch.maximum(free, held), {"clip_fraction": (held > free).float().mean()})
