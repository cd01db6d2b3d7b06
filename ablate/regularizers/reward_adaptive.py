"""A regularizer whose strength grows with the reward: weak while there is much to learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ablate.objectives.optimality import optimality
from ablate.protocols import Regularizer
from ablate.types import Evaluation, Feedback


def raw_reward(fb: Feedback) -> Tensor:
    """The total reward, held to [0, 1]: the paper's reading of CRD."""
    return fb.reward.clamp(0, 1)


def squashed_advantage(fb: Feedback) -> Tensor:
    """``clip(A, +-5)/10 + 1/2``: the release's reading of CRD."""
    return optimality(fb.advantage, 5.0)


@dataclass(frozen=True)
class RewardAdaptive:
    """``(floor + (1 - floor) q) penalty`` with q in [0, 1] by ``source`` (arXiv:2603.14128, adaptive KL).

    Attributes:
        of: the regularizer that gives the penalty [B].
        floor: share of its strength at q = 0; CRD: 1e-4 / kl_coef = 1e-3.
        source: raw_reward (the paper) or squashed_advantage (the release).

    Raises:
        ValueError: ``floor`` outside [0, 1].
    """

    of: Regularizer
    floor: float
    source: Callable[[Feedback], Tensor]

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(
                f"regularizer.floor = {self.floor} must lie in [0, 1]; 1 is the plain regularizer"
            )

    @property
    def uses(self) -> frozenset[str]:
        return self.of.uses

    def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor:
        return (self.floor + (1 - self.floor) * self.source(fb)) * self.of(ev, fb)
