"""A brake on velocities that grow: a hinge on their norm, silent below the reference's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.types import Evaluation, Feedback, Role


@dataclass(frozen=True)
class NormHinge:
    """``kl_coef max(0, |v| - (1 + slack) |v_role|)``, norms being root mean squares over ``*D``.

    After NormGuard (arXiv:2606.27771), which finds that RL inflates velocities; its exact form is not known
    to us. It is no distance: a velocity of the same length may point anywhere.

    Attributes:
        kl_coef: factor, > 0.
        role: whose norm is the bound.
        slack: share by which the bound may be passed, >= 0.

    Raises:
        ValueError: a number is out of range.
    """

    kl_coef: float
    role: Role = "ref"
    slack: float = 0.0

    def __post_init__(self) -> None:
        if not self.kl_coef > 0:
            raise ValueError(
                f"regularizer.kl_coef = {self.kl_coef} must be positive; for none: regularizer=none"
            )
        if not self.slack >= 0:
            raise ValueError(f"regularizer.slack = {self.slack} must be 0 or more; 0.1 allows a tenth")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({f"v:{self.role}"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor:
        del fb
        bound = (1 + self.slack) * _norm(ev.v_of[self.role])
        return self.kl_coef * torch.relu(_norm(ev.v) - bound)  # whose slope at 0 is 0, unlike clamp's


def _norm(v: Tensor) -> Tensor:
    square = v.square().flatten(1).mean(1)
    return square.clamp(min=1e-24).sqrt()  # a norm has no slope at 0
