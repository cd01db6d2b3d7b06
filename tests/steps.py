"""Queries of scored steps made by hand, and single rows of queries."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ablate.estimators.weights import Adaptive
from ablate.types import Query, ScoredStep, Transition


def stepped(x: Tensor, v_old: Tensor, noise: Tensor, c: tuple[float, float, float], length: float) -> Query:
    """A trajectory query at x -> c1 x + c2 v_old + std noise, without an estimator; c = (c1, c2, std)."""
    c1, c2, std = (torch.full((len(x), 1), number, dtype=x.dtype) for number in c)
    transition = Transition(c1 * x, c2, std)
    x_next = transition.sample(v_old, noise)
    return Query(
        x_t=x,
        t=torch.full((len(x),), 0.5, dtype=x.dtype),
        k=torch.zeros(len(x)).long(),
        cond={},
        target=transition.target(x_next),
        log_prob=partial(transition.log_prob, x_next),
        step=ScoredStep(transition, torch.full((len(x),), length, dtype=x.dtype)),
    )


def rows(query: Query, one: slice) -> Query:
    """Some rows of a query that ``point`` (with Adaptive) or ``stepped`` made."""
    target, t = query.target[one], query.t[one]
    score, step = partial(Adaptive(), target=target, t=t), None
    if query.step is not None:
        whole = query.step.transition
        kept = replace(whole, c1x=whole.c1x[one], c2=whole.c2[one], std=whole.std[one])
        score, step = partial(kept.log_prob, kept.mean(target)), ScoredStep(kept, query.step.length[one])
    return replace(query, x_t=query.x_t[one], t=t, target=target, log_prob=score, step=step)
