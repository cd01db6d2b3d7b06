"""EPG: the plain policy gradient on an estimated log-likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class EPG:
    """``-sg[r] A L`` with ``log r = L(v) - L(v_old)`` (arXiv:2602.04663, ELBO policy gradient).

    Attributes:
        ratio: False drops the importance ratio r, and with it the old network's forward.
    """

    ratio: bool = True
    scope: ClassVar[Scope] = "sample"

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"log_prob:old"}) if self.ratio else frozenset()

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        weight = fb.advantage
        if self.ratio:
            weight = weight * (ev.log_prob.detach() - ev.log_prob_of["old"]).exp()
        return Loss(-weight * ev.log_prob)
