"""GRPO-Guard: a clipped ratio whose bias is removed and whose size does not depend on the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class Guard:
    """``max(-A r, -A clip(r, 1 +- c)) / length``, ``log r = std (L(v) - L(v_old) + b)`` (arXiv:2510.22319).

    ``b = KL(old's step || theta's)``, so the exponent is ``mean c2 eps (v - v_old)``: linear in v, zero in
    the mean, of one size at all steps. b is per sample; the release averages it over the batch too.

    Attributes:
        clip: c in (0, 1); 2e-6 for OCR, 4e-6 for PickScore.
        reweight: divide by the step length; False is the Flow-Factory port.

    Raises:
        ValueError: ``clip`` outside (0, 1).
    """

    clip: float
    reweight: bool = True
    scope: ClassVar[Scope] = "sample"

    def __post_init__(self) -> None:
        if not 0 < self.clip < 1:
            raise ValueError(f"objective.clip = {self.clip} must lie in (0, 1); GRPO-Guard uses 2.0e-6")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"log_prob:old", "v:old"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        step = ev.query.scored_step()
        bias = step.transition.bias(ev.v, ev.v_of["old"])
        std = step.transition.std.flatten(1).mean(1)
        ratio = (std * (ev.log_prob - ev.log_prob_of["old"] + bias)).exp()
        free = -fb.advantage * ratio
        held = -fb.advantage * ratio.clamp(1 - self.clip, 1 + self.clip)
        loss = torch.maximum(free, held)
        metrics = {"clip_fraction": (held > free).float().mean(), "ratio_bias": bias.detach().mean()}
        return Loss(loss / step.length if self.reweight else loss, metrics)
