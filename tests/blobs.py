"""A toy whose densities are known: one Gaussian per prompt, with the exact velocity of its flow."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from pieces import draws
from torch import Tensor, nn

from ablate.averaging import average
from ablate.estimators.elbo import ELBO
from ablate.protocols import Objective, Regularizer
from ablate.types import Cond, Evaluation, Feedback, Query, Rollout


class Blobs(nn.Module):
    """N(mean_c, std_c^2 I) in two dimensions for prompts c, both trainable."""

    def __init__(self, prompts: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(prompts, 2, dtype=torch.float64))
        self.log_std = nn.Parameter(torch.zeros(prompts, dtype=torch.float64))

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """``E[eps - x0 | x_t]`` for x [B,2] at t [B], or [B,draws,2] at [B,draws]."""
        shape = (-1, *[1] * (t.dim() - 1))
        mean, variance = self.mean[cond["prompt"]], (2 * self.log_std[cond["prompt"]]).exp().view(shape)
        mean = mean.view(-1, *[1] * (t.dim() - 1), 2)
        t = t.double()
        slope = (t - (1 - t) * variance) / ((1 - t).square() * variance + t.square())
        return slope[..., None] * (x - (1 - t)[..., None] * mean) - mean

    def sample(self, size: int, seed: int) -> Rollout:
        """``size`` samples of each prompt."""
        group = torch.arange(len(self.mean)).repeat_interleave(size)
        noise = draws(len(group), "blobs", seed).normal(2).double()
        x0 = (self.mean[group] + self.log_std[group].exp()[:, None] * noise).detach()
        return Rollout(x0, group, torch.arange(len(group)), {"prompt": group}, "old")

    def kl(self, other: Blobs) -> float:
        """KL(self | other), the mean over prompts."""
        with torch.no_grad():
            log_ratio = self.log_std - other.log_std
            gap = (self.mean - other.mean).square().sum(1) / (2 * other.log_std).exp()
            return float(((2 * log_ratio).exp() - 1 - 2 * log_ratio + 0.5 * gap).mean())

    def copy(self) -> Blobs:
        frozen = deepcopy(self)
        return frozen.requires_grad_(False)


def queries(estimator: ELBO, rollout: Rollout, seed: int, averaged: int = 1) -> list[Query]:
    """All queries of a rollout; ``averaged`` draws make one."""
    noise = draws(len(rollout.x0), "query", seed)
    return list(average(estimator.queries(rollout, torch.arange(len(rollout.x0)), noise), averaged))


def mean_loss(
    objective: Objective,
    penalty: Regularizer | None,
    query: Query,
    theta: Blobs,
    of: dict[str, Blobs],
    fb: Feedback,
) -> Tensor:
    """Mean loss of one query, as the learner adds it up."""
    query = replace(query, t=query.t.double())
    with torch.no_grad():
        known = {role: blobs.velocity(query.x_t, query.t, query.cond) for role, blobs in of.items()}
    v = theta.velocity(query.x_t, query.t, query.cond)
    scores = {role: query.log_prob(u) for role, u in known.items()}
    ev = Evaluation(query, v, query.log_prob(v), known, scores)
    per_sample = objective(ev, fb).per_sample
    return (per_sample if penalty is None else per_sample + penalty(ev, fb)).mean()
