"""Exponential credit: how much likelier a sample should become, less one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ablate.groups import group_max, group_mean


@dataclass(frozen=True)
class Exponential:
    """``exp(R/gamma) / mean_group exp(R/gamma) - 1``, gamma = temperature std(all R) (arXiv:2606.30376).

    FlowAWR's weight, in [-1, G - 1]: what pushes away is bounded by construction.

    Attributes:
        temperature: in standard deviations of the iteration's rewards, > 0; 1 as published.
        standardize: divide by ``max(std(A), 1e-2)`` over the iteration, published for rule-based rewards.
        floor: least gamma / temperature, > 0.

    Raises:
        ValueError: a number is not positive.
    """

    temperature: float = 1.0
    standardize: bool = False
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not self.floor > 0:
            raise ValueError(
                f"advantage.temperature = {self.temperature} and floor = {self.floor} must be positive"
            )

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        values = rewards.double()
        gamma = self.temperature * values.std(correction=0).clamp(min=self.floor)
        weight = ((values - group_max(values, group)) / gamma).exp()  # less the largest: it cannot overflow
        credit = weight / group_mean(weight, group) - 1
        if self.standardize:
            credit = credit / credit.std(correction=0).clamp(min=1e-2)
        return credit.float()
