"""The initial noise of a group's samples: independent, shared, or in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ablate.key import Draws


@dataclass(frozen=True)
class Noise:
    """``x_1 = sqrt(1 - spread^2) eps_group + spread eps_sample``.

    Attributes:
        spread: 1 is independent, 0 one start per group (DanceGRPO), in between as in arXiv:2511.16955.

    Raises:
        ValueError: ``spread`` outside [0, 1].
    """

    spread: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.spread <= 1:
            raise ValueError(f"start.spread = {self.spread} must lie in [0, 1]; 1 is independent noise")

    def __call__(self, group: Tensor, shape: Sequence[int], draws: Draws) -> Tensor:
        own = draws.of("start").normal(*shape)
        if self.spread == 1:
            return own
        shared = draws.of("start", "group").rows(group).normal(*shape)
        weight: float = (1 - self.spread**2) ** 0.5
        return weight * shared + self.spread * own
