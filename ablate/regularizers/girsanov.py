"""Distance of velocities: the path KL of two SDEs with one noise, up to its time weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ablate.estimators.weights import mean_square
from ablate.types import Evaluation, Feedback, Role


@dataclass(frozen=True)
class Girsanov:
    """``kl_coef mean |v - v_role|^2`` over ``*D`` (the KL term of arXiv:2602.04663 and arXiv:2509.16117).

    Raises:
        ValueError: ``kl_coef <= 0``.
    """

    kl_coef: float
    role: Role = "ref"

    def __post_init__(self) -> None:
        if not self.kl_coef > 0:
            raise ValueError(
                f"regularizer.kl_coef = {self.kl_coef} must be positive; for none: regularizer=none"
            )

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({f"v:{self.role}"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor:
        del fb
        return self.kl_coef * mean_square(ev.v, ev.v_of[self.role])
