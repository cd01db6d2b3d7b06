"""PEPG: the policy gradient with the log-ratio subtracted from the advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class PEPG:
    """``-sg[r] (A - sg[log r]) L`` with ``log r = L(v) - L(v_old)`` (arXiv:2602.04663, proximal EPG).

    Attributes:
        ratio: False drops the factor r; the proximal term still needs the old network.
    """

    ratio: bool = True
    scope: ClassVar[Scope] = "sample"

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"log_prob:old"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        log_ratio = ev.log_prob.detach() - ev.log_prob_of["old"]
        weight = fb.advantage - log_ratio
        if self.ratio:
            weight = weight * log_ratio.exp()
        return Loss(-weight * ev.log_prob)
