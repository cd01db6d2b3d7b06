"""Several draws made one query: log-likelihoods are averaged before any ratio sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ablate.types import Query, ScoredStep


def average(queries: Sequence[Query], draws: int) -> Sequence[Query]:
    """Merge every ``draws`` consecutive queries into one with states [B,draws,*D] and their mean score.

    The new axis looks like one more latent dimension to whatever reduces over those.

    Raises:
        ValueError: the number of queries is no multiple of ``draws``.
    """
    if draws == 1:
        return queries
    if len(queries) % draws:
        raise ValueError(
            f"batch.draws = {draws} must divide the {len(queries)} queries per sample; "
            "change the estimator's times"
        )
    return [_merge(queries[first : first + draws]) for first in range(0, len(queries), draws)]


def _merge(parts: Sequence[Query]) -> Query:
    def log_prob(v: Tensor) -> Tensor:
        return torch.stack([q.log_prob(v[:, s]) for s, q in enumerate(parts)]).mean(0)

    return Query(
        x_t=torch.stack([q.x_t for q in parts], 1),
        t=torch.stack([q.t for q in parts], 1),
        k=torch.stack([q.k for q in parts], 1),
        cond=parts[0].cond,
        target=torch.stack([q.target for q in parts], 1),
        log_prob=log_prob,
        known=_mean_known(parts),
        gain=sum(q.gain for q in parts) / len(parts),
        step=_merge_steps([q.step for q in parts if q.step is not None]),
    )


def _merge_steps(steps: Sequence[ScoredStep]) -> ScoredStep | None:
    """One Gaussian over all draws, and their mean length."""
    if not steps:
        return None
    merged = replace(
        steps[0].transition,
        c1x=torch.stack([s.transition.c1x for s in steps], 1),
        c2=torch.stack([s.transition.c2 for s in steps], 1),
        std=torch.stack([s.transition.std for s in steps], 1),
        scale=_stack([s.transition.scale for s in steps]),
    )
    return ScoredStep(merged, torch.stack([s.length for s in steps]).mean(0))


def _stack(scales: Sequence[Tensor | float]) -> Tensor | float:
    """[B,draws,1,..]; a number where no profile scales the steps."""
    given = [scale for scale in scales if isinstance(scale, Tensor)]
    return torch.stack(given, 1) if given else 1.0


def _mean_known(parts: Sequence[Query]) -> Mapping[str, Tensor]:
    roles = set.intersection(*(set(q.known) for q in parts))
    return {role: torch.stack([q.known[role] for q in parts]).mean(0) for role in roles}
