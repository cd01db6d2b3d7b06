"""CRD: regress centred log-ratios on centred rewards; the partition function of the prompt cancels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ablate.groups import group_max, group_mean
from ablate.objectives.optimality import check_positive, optimality
from ablate.types import Evaluation, Feedback, Loss, Role, Scope

CenterScope = Literal["group", "microbatch"]
HardSign = Literal["advantage", "squashed"]


def mse(implied: Tensor, wanted: Tensor) -> Tensor:
    """``(implied - wanted)^2`` [B]."""
    return (implied - wanted).square()


def bce(implied: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of ``sigmoid(implied)`` against ``sigmoid(wanted)`` [B]."""
    return binary_cross_entropy_with_logits(implied, wanted.sigmoid(), reduction="none")


@dataclass(frozen=True)
class CRD:
    """``(bound/beta) error(beta (d - sg[mean_w d]), q - mean_w q)`` (arXiv:2603.14128).

    ``d = L(v) - L(v_role)``, ``q = clip(A, +-bound)/(2 bound) + 1/2``, beta = ``temperature``. With mse
    and no weights its slope in d is ``-(A - 2 bound beta (d - mean d))``: the policy gradient, its advantage
    limiting itself. With weights ``w ~ exp(+-q / weight_temperature)`` the loss is the mean over both signs;
    at weight_temperature 0 they are ``w ~ exp(q)`` on the good samples alone and on the bad ones alone, or
    uniform where there are none.

    Attributes:
        temperature: of the tilt ``p* ~ p_role exp(r / temperature)``.
        role: whom the log-ratio compares with; ref is the release's ``use_old_for_loss = false``.
        center_scope: mean over the group (the paper), or over the micro-batch (the release).
        weight_temperature: None for uniform weights, the published ones; 0 for hard ones.
        hard_sign: what tells good from bad at weight_temperature 0: the sign of the advantage, or that of q,
            which is in [0, 1], as in the release; then none is bad.
        bound: where the advantage saturates.

    Raises:
        ValueError: a number is out of range, or a name is none of these.
    """

    temperature: float
    error: Callable[[Tensor, Tensor], Tensor] = mse
    role: Role = "old"
    center_scope: CenterScope = "group"
    weight_temperature: float | None = None
    hard_sign: HardSign = "advantage"
    bound: float = 5.0
    scope: ClassVar[Scope] = "group"

    def __post_init__(self) -> None:
        check_positive("bound", self.bound, "5.0 as published")
        check_positive("temperature", self.temperature, "CRD uses 1.0")
        if self.weight_temperature is not None and not self.weight_temperature >= 0:
            raise ValueError(
                f"objective.weight_temperature = {self.weight_temperature} must be 0 or more; "
                "0 weighs the good and the bad apart, null all alike"
            )
        if self.center_scope not in get_args(CenterScope):
            raise ValueError(f"objective.center_scope = {self.center_scope} must be group or microbatch")
        if self.hard_sign not in get_args(HardSign):
            raise ValueError(f"objective.hard_sign = {self.hard_sign} must be advantage or squashed")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({f"log_prob:{self.role}"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        group = fb.group if self.center_scope == "group" else torch.zeros_like(fb.group)
        log_ratio, q = ev.log_prob - ev.log_prob_of[self.role], optimality(fb.advantage, self.bound)
        losses = []
        for w in self._weights(q, fb.advantage, group):
            norm = group_mean(w, group)
            implied = log_ratio - group_mean(w * log_ratio.detach(), group) / norm
            wanted = q - group_mean(w * q, group) / norm
            losses.append(self.error(self.temperature * implied, wanted))
        return Loss(self.bound / self.temperature * torch.stack(losses).mean(0))

    def _weights(self, q: Tensor, advantage: Tensor, group: Tensor) -> list[Tensor]:
        if self.weight_temperature is None:
            return [torch.ones_like(q)]
        if self.weight_temperature == 0:
            sign = advantage if self.hard_sign == "advantage" else q
            return [_pool(q, inside, group) for inside in (sign > 0, sign < 0)]
        signed = [sign * q / self.weight_temperature for sign in (1, -1)]
        return [(s - group_max(s, group)).exp() for s in signed]


def _pool(q: Tensor, inside: Tensor, group: Tensor) -> Tensor:
    """``exp(q)`` on the samples ``inside``, 0 on others; 1 on all of a group that has none inside."""
    weight = torch.where(inside, q.exp(), 0.0)
    return torch.where(group_max(weight, group) > 0, weight, 1.0)
