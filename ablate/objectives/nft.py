"""DiffusionNFT: a good sample pulls theta's velocity, a bad one pulls its mirror image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ablate.objectives.optimality import check_positive, optimality
from ablate.types import Evaluation, Feedback, Loss, Scope


@dataclass(frozen=True)
class NFT:
    """``-(q L(v+) + (1 - q) L(v-)) bound / mix``, ``v+- = v_old +- mix (v - v_old)`` (arXiv:2509.16117).

    Scaled as its code does; ``q = clip(A, +-bound)/(2 bound) + 1/2``. On the published likelihood, the
    self-normalised ELBO, its gradient at v = v_old is that of ``-clip(A, +-bound) L``; off-policy it adds the
    trust region ``bound mix t^2 mean (v - v_old)^2 / normaliser``.

    Attributes:
        mix: how far v+- go from v_old, > 0; published: 1, and 0.1 for OCR.
        bound: where the advantage saturates.

    Raises:
        ValueError: a number is not positive.
    """

    mix: float
    bound: float = 5.0
    scope: ClassVar[Scope] = "sample"

    def __post_init__(self) -> None:
        check_positive("bound", self.bound, "5.0 as published")
        check_positive("mix", self.mix, "0 leaves no trace of theta")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"v:old"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        old, q = ev.v_of["old"], optimality(fb.advantage, self.bound)
        away = self.mix * (ev.v - old)
        better, worse = ev.query.log_prob(old + away), ev.query.log_prob(old - away)
        score = q * better + (1 - q) * worse
        return Loss(-score * self.bound / self.mix, {"contrast": (better - worse).detach().abs().mean()})
