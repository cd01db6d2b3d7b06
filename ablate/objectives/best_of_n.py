"""Best-of-N fine-tuning: imitate the best sample of each group. A floor to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class BestOfN:
    """``-L`` of the best sample of a group, shared by equals; 0 for others, and where all are equal.

    Flow-GRPO's code has it as the advantage type ``sft`` (arXiv:2505.05470, ablation).
    """

    scope: ClassVar[Scope] = "siblings"

    @property
    def uses(self) -> frozenset[str]:
        return frozenset()

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        assert fb.siblings is not None
        rivals = fb.siblings.advantage
        best = rivals.amax(1)
        winners = (rivals == best[:, None]).sum(1)
        chosen = (fb.advantage == best) & (winners < rivals.shape[1])
        return Loss(-(chosen / winners) * ev.log_prob, {"chosen": chosen.float().mean()})
