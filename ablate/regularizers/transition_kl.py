"""KL between the sampler's own steps, theta's against a role's."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ablate.types import Evaluation, Feedback, Role


@dataclass(frozen=True)
class TransitionKL:
    """``kl_coef mean (mu - mu_role)^2 / (2 std^2)``, times the length if ``per_length`` (arXiv:2505.05470).

    In velocities ``kl_coef c2^2 mean (v - v_role)^2 / (2 std^2)``. Flow-GRPO's code leaves ``-dt`` out of the
    variance, which is the factor; without it this is the true KL of 2602.04663's and Flow-DPPO's code. One
    kl_coef does not mean the same in both.

    Attributes:
        kl_coef: factor, > 0; Flow-GRPO 0.04, 0.01 for PickScore.
        role: whom to stay near.
        per_length: multiply by ``t - t'``.

    Raises:
        ValueError: ``kl_coef <= 0``.
    """

    kl_coef: float
    role: Role = "ref"
    per_length: bool = True

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
        step = ev.query.scored_step()
        penalty = self.kl_coef * step.transition.divergence(ev.v, ev.v_of[self.role])
        return penalty * step.length if self.per_length else penalty
