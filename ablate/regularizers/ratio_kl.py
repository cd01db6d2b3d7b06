"""KL estimates from log-likelihood ratios, ``d = L(v) - L(v_role)``, as 2602.04663's code has them.

Note the sign: k3 is usually written with the opposite difference. Kept, because the published options are
these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ablate.types import Evaluation, Feedback, Role


def k1(d: Tensor) -> Tensor:
    """``d``. Its direct gradient is a plain score, zero in the mean on-policy."""
    return d


def k2(d: Tensor) -> Tensor:
    """``d^2 / 2``."""
    return 0.5 * d.square()


def k3(d: Tensor) -> Tensor:
    """``exp(d) - 1 - d`` >= 0."""
    return d.expm1() - d


@dataclass(frozen=True)
class RatioKL:
    """``kl_coef estimate(d)``.

    Attributes:
        kl_coef: factor, > 0.
        estimate: k1, k2 or k3.
        role: whom to stay near.
        importance: multiply by ``exp(L(v) - L(v_old))``, with gradient.

    Raises:
        ValueError: ``kl_coef <= 0``.
    """

    kl_coef: float
    estimate: Callable[[Tensor], Tensor]
    role: Role = "ref"
    importance: bool = False

    def __post_init__(self) -> None:
        if not self.kl_coef > 0:
            raise ValueError(
                f"regularizer.kl_coef = {self.kl_coef} must be positive; for none: regularizer=none"
            )

    @property
    def uses(self) -> frozenset[str]:
        reads = {f"log_prob:{self.role}"}
        return frozenset(reads | {"log_prob:old"} if self.importance else reads)

    def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor:
        del fb
        penalty = self.kl_coef * self.estimate(ev.log_prob - ev.log_prob_of[self.role])
        if self.importance:
            penalty = penalty * (ev.log_prob - ev.log_prob_of["old"]).exp()
        return penalty
