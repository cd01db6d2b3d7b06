"""Trajectory: score the steps the sampler took, with the density it drew them from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ablate.contract.errors import IncompatibleRun
from ablate.estimators.profile import Profile
from ablate.key import Draws
from ablate.protocols import HasTransition, Sampler
from ablate.samplers.gaussian import column
from ablate.types import Keep, Query, Rollout, ScoredStep


@dataclass(frozen=True)
class Trajectory:
    """``log p(x_{k+1} | x_k) = log N(x_{k+1}; c1 x_k + c2 v, std^2)`` (arXiv:2505.05470).

    One query per scored step. The role that drew has its score stored, so it costs no forward.

    Attributes:
        sampler: draws and scores; this estimator has no formula of its own.
        fraction: share of the scored steps to train on, chosen at random per sample (DanceGRPO: 0.6).
        profile: how much each step counts; None leaves it to the density (Flow-GRPO).

    Raises:
        IncompatibleRun: the sampler's steps have no density.
    """

    sampler: Sampler
    fraction: float = 1.0
    profile: Profile | None = None
    keep: ClassVar[Keep] = "transitions"

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, HasTransition):
            raise IncompatibleRun(
                f"estimator=trajectory needs a sampler whose steps have a density; "
                f"{type(self.sampler).__name__} has none: choose sampler=sde, or estimator=elbo"
            )
        if not 0 < self.fraction <= 1:
            raise ValueError(f"estimator.fraction = {self.fraction} must lie in (0, 1]")

    def queries(self, rollout: Rollout, index: Tensor, draws: Draws) -> Sequence[Query]:
        if rollout.path is None or rollout.path.log_prob is None:
            raise IncompatibleRun(
                "the sampler scored no step; give it scored steps, or choose estimator=elbo"
            )
        stored = rollout.path.k.shape[1]
        count = max(1, int(stored * self.fraction))
        if count == stored:
            chosen = torch.arange(stored, device=index.device).expand(len(index), -1)
        else:
            chosen = draws.of("steps").permutation(stored)[:, :count]
        return [self._query(rollout, index, chosen[:, j]) for j in range(count)]

    def _query(self, rollout: Rollout, index: Tensor, s: Tensor) -> Query:
        path, sampler = rollout.path, self.sampler
        assert path is not None and path.log_prob is not None and isinstance(sampler, HasTransition)
        x, x_next, k = path.x[index, s], path.x_next[index, s], path.k[index, s]
        transition = sampler.transition(x, k)
        times = sampler.times()
        t, t_next = (times[step.cpu()].to(x.device, torch.float32) for step in (k, k + 1))
        step, known = ScoredStep(transition, t - t_next), path.log_prob[index, s]
        gain: Tensor | float = 1.0
        if self.profile is not None:
            inside, gain = self.profile.inside(step), self.profile.outside(step)
            step = replace(step, transition=replace(transition, scale=column(inside, x)))
            known = inside * known
        return Query(
            x_t=x,
            t=t,
            k=k,
            cond={name: value[index] for name, value in rollout.cond.items()},
            target=transition.target(x_next),
            log_prob=partial(step.transition.log_prob, x_next),
            known={rollout.drawn_by: known},
            gain=gain,
            step=step,
        )
