"""Reward-weighted regression: fit every sample, the better ones more. A floor to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class RWR:
    """``-min(exp(A / temperature), max_weight) L`` (a baseline of arXiv:2305.13301).

    No weight is negative: bad samples are imitated less, never pushed away from.

    Attributes:
        temperature: of the exponential, > 0, in units of the advantage.
        max_weight: > 0; 20 as in arXiv:1910.00177, against one sample taking the batch.

    Raises:
        ValueError: a number is not positive.
    """

    temperature: float
    max_weight: float = 20.0
    scope: ClassVar[Scope] = "sample"

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not self.max_weight > 0:
            raise ValueError(
                f"objective.temperature = {self.temperature} and max_weight = {self.max_weight} "
                "must be positive"
            )

    @property
    def uses(self) -> frozenset[str]:
        return frozenset()

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        weight = (fb.advantage / self.temperature).exp().clamp(max=self.max_weight)
        return Loss(-weight * ev.log_prob, {"weight_max": weight.max()})
