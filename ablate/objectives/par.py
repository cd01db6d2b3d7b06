"""PAR: regress the log-ratio on the advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class PAR:
    """``sg[r] (A - log r)^2 / 2`` with ``log r = L(v) - L(v_old)`` (arXiv:2602.04663).

    Proximal advantage regression. Its gradient is PEPG's, exactly: a difference between the two in a table
    is noise.

    Attributes:
        ratio: False drops the factor r.
    """

    ratio: bool = True
    scope: ClassVar[Scope] = "sample"

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"log_prob:old"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        log_ratio = ev.log_prob - ev.log_prob_of["old"]
        loss = 0.5 * (fb.advantage - log_ratio).square()
        return Loss(loss * log_ratio.detach().exp() if self.ratio else loss)
