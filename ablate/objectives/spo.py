"""SPO: a quadratic price on leaving the ratio 1, in place of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class SPO:
    """``-A r + |A| (r - 1)^2 / (2 c)`` with ``log r = L(v) - L(v_old)`` (arXiv:2401.16025; FDFO 2603.12893).

    At rest where ``r = 1 + sign(A) c``, with a gradient on both sides of it.

    Attributes:
        clip: c > 0; 0.03 in FDFO.

    Raises:
        ValueError: ``clip <= 0``.
    """

    clip: float
    scope: ClassVar[Scope] = "sample"

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ValueError(f"objective.clip = {self.clip} must be positive; FDFO uses 0.03")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"log_prob:old"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        r = (ev.log_prob - ev.log_prob_of["old"]).exp()
        return Loss(-fb.advantage * r + fb.advantage.abs() * (r - 1).square() / (2 * self.clip))
