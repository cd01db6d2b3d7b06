"""Temporal profiles: how much each scored step counts, inside the log-ratio (before a clip) and outside.

At theta = old a step's pull on the velocity is ``c_k = |c2|/std`` times the noise that was drawn, so the
plain density favours the clean end; at noise level a of Flow-SDE ``c_k std = length (1 + a^2/2)``. Methods
known by other names differ in this alone: three profiles, up to constants.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ablate.types import ScoredStep


@dataclass(frozen=True)
class Factor:
    """``scale std^std length^length |c2|^c2`` of a step: [B]. All powers 0 is the number ``scale``.

    Raises:
        ValueError: ``scale <= 0``.
    """

    scale: float
    std: float
    length: float
    c2: float

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(
                f"profile scale = {self.scale} must be positive: 0 or less would turn the reward"
            )

    def __call__(self, step: ScoredStep) -> Tensor:
        std, c2 = (value.flatten(1).mean(1) for value in (step.transition.std, step.transition.c2.abs()))
        factor: Tensor = self.scale * std.pow(self.std) * step.length.pow(self.length) * c2.pow(self.c2)
        return factor


@dataclass(frozen=True)
class Profile:
    """``inside`` multiplies the step's log-likelihood, ``outside`` what objective and penalty make of it.

    For steps scored by their density the net pull is ``inside outside c_k``. With net and place as published
    (a = 0.7, 10 steps; arXiv:2604.17415's code has all six):

    - Flow-GRPO: none at all; c_k.
    - TempFlow-GRPO (arXiv:2508.04324): outside 2.25 std, 2.25 being one over the mean std; net ~ length.
    - PCPO for flows: inside 4.3152 length/c_k; net ~ length.
    - GRPO-Guard (arXiv:2510.22319) but for its bias: inside std, outside 1/length; flat.
    - fairclip: inside std^2, outside its inverse; net c_k, but a clip bites elsewhere.
    - fairclip2: inside std^2, outside 1/(std length); flat.
    """

    inside: Factor
    outside: Factor
