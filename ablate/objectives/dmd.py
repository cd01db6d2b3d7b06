"""DMD-shaped losses: one step of the clean estimate towards, or away from, the sample, as a fixed target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ablate.objectives.optimality import check_positive
from ablate.samplers.gaussian import column
from ablate.types import Evaluation, Feedback, Loss, Scope


def plain(advantage: Tensor) -> Tensor:
    """A: ``dmd_epg``."""
    return advantage


def squashed(advantage: Tensor) -> Tensor:
    """``2 sigmoid(A) - 1`` in (-1, 1): ``dmd_nft``."""
    return 2 * advantage.sigmoid() - 1


@dataclass(frozen=True)
class DMD:
    """``mean (x0_hat - sg[x0_hat + w g])^2 / 2``, ``g = coef(A)(x0 - x0_hat) + beta (x0_hat_ref - x0_hat)``.

    Here ``w = 1 / max(mean |x0_hat - x0|, floor)``, as in 2602.04663's code. With plain credit the gradient
    is half that of EPG without ratio on the self-normalised ELBO, and that of half an anchor to the base,
    ``beta t^2 mean (v - v_ref)^2``, under the same normaliser. The sample x0 is ``x_t - t target``: where an
    estimator's target is not ``eps - x0``, it is the endpoint which that target implies.

    Attributes:
        credit: coef; plain or squashed.
        beta: strength of the anchor, >= 0; 0 saves the base's forward.
        floor: bounds the weight of a perfect network, > 0.

    Raises:
        ValueError: a number is out of range.
    """

    credit: Callable[[Tensor], Tensor]
    beta: float = 0.0
    floor: float = 1e-5
    scope: ClassVar[Scope] = "sample"

    def __post_init__(self) -> None:
        check_positive("floor", self.floor, "1.0e-5 as published")
        if not self.beta >= 0:
            raise ValueError(f"objective.beta = {self.beta} must be 0 or more: below 0 it flees the base")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"v:ref"} if self.beta else ())

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        t, v = column(ev.query.t, ev.v), ev.v.detach()
        away = t * (v - ev.query.target)  # x0 - x0_hat
        step = column(self.credit(fb.advantage), v) * away
        if self.beta:
            step = step + self.beta * t * (v - ev.v_of["ref"])
        weight = 1 / away.abs().flatten(1).mean(1).clamp(min=self.floor)
        target = -t * v + column(weight, v) * step  # of x0_hat - x_t
        return Loss(0.5 * (-t * ev.v - target).square().flatten(1).mean(1), {"weight": weight.mean()})
