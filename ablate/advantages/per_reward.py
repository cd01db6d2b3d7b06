"""Several rewards, each compared within its group before they are added."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ablate.protocols import AdvantageFn


@dataclass(frozen=True)
class PerReward:
    """``A = sum_k w_k of(R_k)`` instead of ``of(sum_k w_k R_k)`` (MixGRPO, arXiv:2507.21802, its code).

    No reward outweighs the others by its spread alone.

    Attributes:
        of: how one reward is compared.
        renormalize: divide the sum by ``max(std, floor)`` over the iteration (GDPO); its mean is 0 already.
        floor: least standard deviation then, > 0.

    Raises:
        ValueError: ``floor <= 0``.
    """

    of: AdvantageFn
    renormalize: bool = False
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(f"advantage.floor = {self.floor} must be positive: equal rewards divide by 0")

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        """Credit of a single reward."""
        return self.combine(rewards[:, None], rewards.new_ones(1), group)

    def combine(self, rewards: Tensor, weights: Tensor, group: Tensor) -> Tensor:
        """rewards [M,R], their weights [R], group [M] -> [M]."""
        each = zip(weights.double(), rewards.unbind(1), strict=True)
        credit = sum((w * self.of(r, group).double() for w, r in each), rewards.new_zeros(()).double())
        if self.renormalize:
            credit = credit / credit.std(correction=0).clamp(min=self.floor)
        return credit.float()
