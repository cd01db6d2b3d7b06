"""Finite differences: score a velocity at the stored states by the endpoint it should lean to (FDFO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ablate.contract.errors import IncompatibleRun
from ablate.groups import group_rows_mean
from ablate.key import Draws
from ablate.protocols import Sampler
from ablate.samplers.gaussian import column
from ablate.types import Keep, Query, Rollout


@dataclass(frozen=True)
class FiniteDifference:
    """``-mean (v - (v_k - n))^2 + mean n^2`` at all stored states, ``n = dx/(mean dx^2 + floor)``.

    Means are over ``*D``. dx leads from the mean endpoint of the group to the sample's own: for a pair, half
    its difference (arXiv:2603.12893, whose loss is objective=spo at clip 0.03 on groups of two from nearly
    one start). v_k is the velocity the sample was drawn with, so the drawing role scores 0 and costs no
    forward. Of a larger group it is the same formula, not FDFO.

    Attributes:
        sampler: any; it gives the times.
        floor: > 0; 1e-6 as released. It bounds n where endpoints fall together.

    Raises:
        ValueError: ``floor <= 0``.
    """

    sampler: Sampler
    floor: float = 1e-6
    keep: ClassVar[Keep] = "states"

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(f"estimator.floor = {self.floor} must be positive: equal endpoints divide by 0")

    def queries(self, rollout: Rollout, index: Tensor, draws: Draws) -> Sequence[Query]:
        del draws
        path = rollout.path
        if path is None or path.v is None:
            raise IncompatibleRun("estimator=finite_difference needs a rollout that kept its velocities")
        dx = rollout.x0[index] - group_rows_mean(rollout.x0, rollout.group, index)
        n = dx / (column(dx.square().flatten(1).mean(1), dx) + self.floor)
        cond = {name: value[index] for name, value in rollout.cond.items()}
        times, found = self.sampler.times().to(dx.device, torch.float32), []
        for s in range(path.k.shape[1]):
            k, v = path.k[index, s], path.v[index, s]
            score, known = partial(_score, v, n), {rollout.drawn_by: torch.zeros_like(dx.flatten(1)[:, 0])}
            found.append(Query(path.x[index, s], times[k], k, cond, v - n, score, known))
        return found


def _score(drawn: Tensor, n: Tensor, v: Tensor) -> Tensor:
    """The docstring's score [B], without the two large numbers whose difference it is."""
    away = v - drawn
    return -(away * (away + 2 * n)).flatten(1).mean(1)
