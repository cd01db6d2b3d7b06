"""Velocity matching: regress theta on a base velocity shifted along the denoising residual (RAM, FlowAWR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ablate.estimators.weights import mean_square
from ablate.samplers.gaussian import column
from ablate.types import Evaluation, Feedback, Loss, Role, Scope


@dataclass(frozen=True)
class VelocityMatching:
    """``mean (v - sg[v_base + multiplier A (v* - v_residual)])^2`` over ``*D``.

    base = ref is RAM (arXiv:2605.10759), base = old is FlowAWR (arXiv:2606.30376). Its gradient is that of
    ``mean (v - v_base)^2 + multiplier A (mean (v - v*)^2 - mean (v - v_residual)^2)``: a velocity anchor at
    coefficient 1 and a policy gradient on the uniform ELBO, so 1/multiplier is the KL strength. The last term
    has no gradient where the residual is theta's own, and on-policy. The published likelihood is
    estimator=elbo_uniform; ``v*`` is the query's target.

    Attributes:
        base: the role whose velocity is shifted.
        multiplier: RAM 100 (GenEval, OCR) or 1000 (PickScore); FlowAWR 1.
        residual: the role whose error is shifted by: old (RAM's official recipe) or theta (its paper).

    Raises:
        ValueError: ``multiplier <= 0``.
    """

    base: Role
    multiplier: float
    residual: Role = "old"
    scope: ClassVar[Scope] = "sample"

    def __post_init__(self) -> None:
        if not self.multiplier > 0:
            raise ValueError(
                f"objective.multiplier = {self.multiplier} must be positive; below 0 it would flee the reward"
            )

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({f"v:{role}" for role in (self.base, self.residual) if role != "theta"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        v_of = {**ev.v_of, "theta": ev.v.detach()}
        shift = column(self.multiplier * fb.advantage, ev.v) * (ev.query.target - v_of[self.residual])
        return Loss(mean_square(ev.v, v_of[self.base] + shift))
