"""ELBO: re-noise the final sample and score the denoising error. Any sampler will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ablate.estimators.times import TimeSelection
from ablate.estimators.weights import Weighting
from ablate.key import Draws, Key
from ablate.protocols import Sampler
from ablate.samplers.gaussian import column
from ablate.types import Keep, Query, Rollout

Tie = Literal["sample", "group", "iteration"]


@dataclass(frozen=True)
class ELBO:
    """``log p~(x0) = -w(t) mean (v(x_t, t) - (eps - x0))^2`` (arXiv:2602.04663).

    Here ``x_t = (1 - t) x0 + t eps``. Unnormalised: a good gradient, not a density. All networks of a query
    see the same time and noise.

    Attributes:
        sampler: its grid is what ``times`` may choose from.
        times: which times; T queries per sample.
        weighting: w and its normaliser.
        tie_times, tie_noise: who shares one draw: nobody (``sample``), the samples of a prompt (``group``) or
            all of the iteration, on any number of processes. Published code that shares times in a
            micro-batch is ``iteration`` here, where the size of a micro-batch changes no number.

    Raises:
        ValueError: a tie is none of these, or ``times`` cannot choose from the sampler's grid.
    """

    sampler: Sampler
    times: TimeSelection
    weighting: Weighting
    tie_times: Tie = "sample"
    tie_noise: Tie = "sample"
    keep: ClassVar[Keep] = "x0"

    def __post_init__(self) -> None:
        for name, tie in (("tie_times", self.tie_times), ("tie_noise", self.tie_noise)):
            if tie not in get_args(Tie):
                raise ValueError(
                    f"estimator.{name} = {tie} must be sample, group or iteration: who shares a draw"
                )
        self.times(
            self.sampler.times(), Key().rows(torch.arange(0))
        )  # refuses now what it would refuse later

    def queries(self, rollout: Rollout, index: Tensor, draws: Draws) -> Sequence[Query]:
        group = rollout.group[index]
        shared: dict[Tie, Draws] = {
            "sample": draws,
            "group": draws.of("group").rows(group),
            "iteration": draws.of("iteration").rows(torch.zeros_like(group)),
        }
        t, k = self.times(self.sampler.times(), shared[self.tie_times])
        noise = shared[self.tie_noise]
        return [self._query(rollout, index, t[:, j], k[:, j], noise.of("eps", j)) for j in range(t.shape[1])]

    def _query(self, rollout: Rollout, index: Tensor, t: Tensor, k: Tensor, noise: Draws) -> Query:
        x0 = rollout.x0[index]
        eps = noise.normal(*x0.shape[1:])
        at = column(t, x0)
        target = eps - x0
        return Query(
            x_t=(1 - at) * x0 + at * eps,
            t=t,
            k=k,
            cond={name: value[index] for name, value in rollout.cond.items()},
            target=target,
            log_prob=partial(self.weighting, target=target, t=t),
        )
