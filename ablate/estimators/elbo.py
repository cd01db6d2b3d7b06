"""ELBO: re-noise the final sample and score the denoising error. Any sampler will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from ablate.estimators.times import TimeSelection
from ablate.estimators.weights import Weighting
from ablate.key import Draws
from ablate.protocols import Sampler
from ablate.samplers.gaussian import column
from ablate.types import Keep, Query, Rollout


@dataclass(frozen=True)
class ELBO:
    """``log p~(x0) = -w(t) mean (v(x_t, t) - (eps - x0))^2`` (arXiv:2602.04663).

    Here ``x_t = (1 - t) x0 + t eps``. Unnormalised: a good gradient, not a density. All networks of a query
    see the same time and noise.

    Attributes:
        sampler: its grid is what ``times`` may choose from.
        times: which times; T queries per sample.
        weighting: w and its normaliser.
        tie_times, tie_noise: one draw for all samples of a prompt instead of one per sample.
    """

    sampler: Sampler
    times: TimeSelection
    weighting: Weighting
    tie_times: bool = False
    tie_noise: bool = False
    keep: ClassVar[Keep] = "x0"

    def queries(self, rollout: Rollout, index: Tensor, draws: Draws) -> Sequence[Query]:
        by_group = draws.of("group").rows(rollout.group[index])
        t, k = self.times(self.sampler.times(), by_group if self.tie_times else draws)
        noise = by_group if self.tie_noise else draws
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
