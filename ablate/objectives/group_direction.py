"""Group directions: regress theta's clean estimate towards what the better endpoints of a group share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ablate.estimators.weights import mean_square
from ablate.objectives.optimality import check_positive
from ablate.objectives.sibling_weights import SiblingWeights, effective_number
from ablate.samplers.gaussian import column
from ablate.types import Evaluation, Feedback, Loss, Query, Scope, Siblings

Centre = Literal["mean", "old", "none"]
Normalise = Literal["none", "unit", "spread"]
Quadratic = Literal["old", "signed"]
_FLOOR = 1e-6


@dataclass(frozen=True)
class GroupDirection:
    """``mean (v - sg[v_old - s C / t])^2``: towards the clean estimate ``x0_hat_old + s C``, over ``*D``.

    ``C = sum_j w_j a_j (x0_j - b)`` over the endpoints x0_j of the row's group, of credit a_j, and
    ``s = gain t^time_power / n``. Published points of the family, all without an extra forward:

    - KDE value gradient (arXiv:2608.14430, our reading): a kernel, centre mean. ``(1 - t)/t^2 C`` is then the
      gradient in x_t of ``sum_j w_j(x_t) A_j``, if the kernel is the posterior.
    - PWVM (2602.04663's code): Median, centre none, quadratic signed, i.e.
      ``mean sum_j w_j A_j (v - (x_t - x0_j)/t)^2``, evaluated by its moments.
    - DiffusionART (2026, its project page): Equal, centre mean, normalise unit; gain and t are not published.
    - FDFO's step (arXiv:2603.12893): Equal, centre mean, normalise spread, time_power 1, groups of two.
    - FlowAWR (arXiv:2606.30376): SelfWeight(1), centre old.

    Attributes:
        weights: w [B,G].
        gain: > 0.
        centre: a_j is ``A_j - sum_i w_i A_i`` and b = 0 (mean), or a_j is A_j and b the old clean estimate
            (old) or 0 (none, for credit that the group's mean was taken from).
        normalise: n is 1 (none), the root mean square of C (unit), or the weighted variance of the endpoints
            in the mean over ``*D`` (spread: of a pair, the mean square of half its difference).
        quadratic: old as above; signed puts the factor ``sum_j w_j a_j`` on the square, which bends the loss
            down where credit is negative: for centre mean it is 0, and the loss linear.
        time_power: 0 is a shift in clean space, 1 one of the velocity.

    Raises:
        ValueError: ``gain <= 0``, or a choice is none of those.
    """

    weights: SiblingWeights
    gain: float
    centre: Centre = "mean"
    normalise: Normalise = "none"
    quadratic: Quadratic = "old"
    time_power: float = 0.0
    scope: ClassVar[Scope] = "siblings"

    def __post_init__(self) -> None:
        check_positive("gain", self.gain, "below 0 it would flee the reward")
        for name, choices in (("centre", Centre), ("normalise", Normalise), ("quadratic", Quadratic)):
            if vars(self)[name] not in get_args(choices):
                raise ValueError(
                    f"objective.{name} = {vars(self)[name]} must be one of {', '.join(get_args(choices))}"
                )

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"v:old"} if "old" in (self.centre, self.quadratic) else ())

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        assert fb.siblings is not None
        query, x0 = ev.query, fb.siblings.x0
        w = self.weights(_squares(query, x0), query.t)
        pull = w * self._credit(fb.siblings, w)
        c = _weighted(pull, x0)
        base = ev.v_of["old"] if self.uses else query.x_t / column(query.t, query.x_t)
        if self.centre == "old":
            c = c - column(pull.sum(1), c) * (query.x_t - column(query.t, c) * base)
        s = self.gain * query.t.pow(self.time_power) / self._size(c, w, x0)
        shift = column(s / query.t, c) * c
        metrics = {
            "self_weight": w[:, 0].mean(),
            "effective_siblings": effective_number(w).mean(),
            "signal": _signal(c, fb.siblings),
        }
        if self.quadratic == "old":
            return Loss(mean_square(ev.v, base - shift), metrics)
        away, bend = ev.v - base, column(s * pull.sum(1), c)
        return Loss((bend * away.square() + 2 * away * shift).flatten(1).mean(1), metrics)

    def _credit(self, siblings: Siblings, w: Tensor) -> Tensor:
        credit = siblings.advantage
        return credit - (w * credit).sum(1, keepdim=True) if self.centre == "mean" else credit

    def _size(self, c: Tensor, w: Tensor, x0: Tensor) -> Tensor:
        """n [B]."""
        if self.normalise == "unit":
            return _rms(c) + _FLOOR
        if self.normalise == "none":
            return torch.ones_like(w[:, 0])
        mean = _weighted(w, x0)
        away = [(one - mean).square().flatten(1).mean(1) for one in x0.unbind(1)]
        return (w * torch.stack(away, 1)).sum(1) + _FLOOR


def _weighted(w: Tensor, x0: Tensor) -> Tensor:
    """``sum_j w_j x0_j``: [B,G], [B,G,*D] -> [B,*D]."""
    return torch.einsum("bg,bgd->bd", w.to(x0.dtype), x0.flatten(2)).view_as(x0[:, 0])


def _squares(query: Query, x0: Tensor) -> Tensor:
    """``|x_t - (1 - t) x0_j|^2`` [B,G], one sibling at a time: no second tensor of all of them."""
    kept = column(1 - query.t, query.x_t)
    each = [(query.x_t - kept * one).square().flatten(1).sum(1) for one in x0.unbind(1)]
    return torch.stack(each, 1)


def _rms(x: Tensor) -> Tensor:
    return x.square().flatten(1).mean(1).sqrt()


def _signal(c: Tensor, siblings: Siblings) -> Tensor:
    """Size of C over that of the group's covariance of credit and endpoint; near 0, nothing is trained."""
    credit = siblings.advantage - siblings.advantage.mean(1, keepdim=True)
    whole = _weighted(credit / credit.shape[1], siblings.x0)
    return (_rms(c) / _rms(whole).clamp(min=torch.finfo(c.dtype).tiny)).mean()
