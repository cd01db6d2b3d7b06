"""Credit for the ends of a group alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ablate.groups import group_max, group_sum


@dataclass(frozen=True)
class BestWorst:
    """+1 to the best of a group, -1 to its worst, shared by equals; 0 to all others.

    The advantage type ``dpo`` of Flow-GRPO's code (arXiv:2505.05470): pairs as preference learning sees them.
    """

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        best = (rewards == group_max(rewards, group)).double()
        worst = (-rewards == group_max(-rewards, group)).double()
        return (best / group_sum(best, group) - worst / group_sum(worst, group)).float()
