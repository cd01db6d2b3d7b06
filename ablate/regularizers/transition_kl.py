"""KL between the sampler's own steps, theta's against a role's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ablate.types import Evaluation, Feedback, Role

Variance = Literal["rate", "step", "omitted"]


@dataclass(frozen=True)
class TransitionKL:
    """``kl_coef mean (mu - mu_role)^2 / (2 variance)``, the means being ``c1 x + c2 v`` (arXiv:2505.05470).

    In velocities ``kl_coef c2^2 mean (v - v_role)^2 / (2 variance)``. One kl_coef does not mean the same
    under two of the published variances.

    Attributes:
        kl_coef: factor, > 0; Flow-GRPO 0.04, 0.01 for PickScore.
        role: whom to stay near.
        variance: ``step``, std^2, is the true KL of 2602.04663's and Flow-DPPO's code. ``rate``, std^2 over
            the step's length ``t - t'``, is Flow-GRPO's, which so leaves ``-dt`` out. ``omitted`` divides by
            nothing, not even 2, as Flow-CPS's code (arXiv:2509.05952).

    Raises:
        ValueError: ``kl_coef <= 0``, or an unknown variance.
    """

    kl_coef: float
    role: Role = "ref"
    variance: Variance = "rate"

    def __post_init__(self) -> None:
        if not self.kl_coef > 0:
            raise ValueError(
                f"regularizer.kl_coef = {self.kl_coef} must be positive; for none: regularizer=none"
            )
        if self.variance not in get_args(Variance):
            raise ValueError(f"regularizer.variance = {self.variance} must be rate, step or omitted")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({f"v:{self.role}"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor:
        del fb
        step = ev.query.scored_step()
        square = (step.transition.c2 * (ev.v - ev.v_of[self.role])).square()
        if self.variance != "omitted":
            square = square / (2 * step.transition.std.square())
        penalty = self.kl_coef * square.flatten(1).mean(1)
        return penalty * step.length if self.variance == "rate" else penalty
