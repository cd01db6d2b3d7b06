"""Several draws as one query: means of log-likelihoods, before any ratio sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pieces import draws, evaluation, sample

from ablate.averaging import average
from ablate.groups import feedback_of
from ablate.networks import evaluate
from ablate.protocols import Policy
from ablate.types import Feedback, Query, Rollout

ROWS = 12


@pytest.fixture(scope="module")
def rollout(part: Callable[..., Any], policy: Policy) -> Rollout:
    return sample(policy, part("sampler", "sde"), part("start", "iid"), keep="transitions", groups=3, size=4)


@pytest.fixture(params=["elbo", "elbo_uniform", "trajectory"])
def queries(request: pytest.FixtureRequest, part: Callable[..., Any], rollout: Rollout) -> Sequence[Query]:
    estimator = part("estimator", request.param, sampler=part("sampler", "sde"))
    return list(estimator.queries(rollout, torch.arange(ROWS), draws(ROWS)))


def test_one_draw_is_the_query_itself(queries: Sequence[Query]) -> None:
    assert average(queries, 1) is queries


@pytest.mark.parametrize("count", [3, 9])
def test_the_score_is_the_mean_of_the_scores(queries: Sequence[Query], count: int) -> None:
    """Of logs, not the log of a mean, and each draw has its own velocity, time and target."""
    merged = average(queries, count)
    assert len(merged) == 9 // count
    v = draws(ROWS, "v").normal(9, 2)
    for g, query in enumerate(merged):
        own = slice(g * count, (g + 1) * count)
        assert query.x_t.shape == query.target.shape == (ROWS, count, 2)
        assert query.t.shape == query.k.shape == (ROWS, count)
        mean = torch.stack([q.log_prob(v[:, own.start + s]) for s, q in enumerate(queries[own])]).mean(0)
        torch.testing.assert_close(query.log_prob(v[:, own]), mean)
        for s, q in enumerate(queries[own]):
            assert torch.equal(query.x_t[:, s], q.x_t) and torch.equal(query.t[:, s], q.t)
        for role in queries[0].known:
            torch.testing.assert_close(
                query.known[role], torch.stack([q.known[role] for q in queries[own]]).mean(0)
            )


def test_a_network_answers_each_draw(queries: Sequence[Query], policy: Policy) -> None:
    query = average(queries, 3)[1]
    before = policy.forwards
    ev = evaluate(policy, query, {"v:ref"})
    assert policy.forwards - before == 2 * 3 * ROWS
    assert ev.v.shape == (ROWS, 3, 2) and ev.log_prob.shape == (ROWS,)
    alone = torch.stack([policy.velocity("theta")(q.x_t, q.t, q.cond) for q in queries[3:6]], 1)
    torch.testing.assert_close(ev.v, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(ev.v_of["ref"], ev.v.detach(), rtol=0, atol=0)


def test_draws_look_like_latent_dimensions(queries: Sequence[Query], part: Callable[..., Any]) -> None:
    """A velocity penalty of an averaged query is the mean of its draws' penalties."""
    girsanov = part("regularizer", "girsanov")
    v, ref = draws(ROWS, "v").normal(9, 2), draws(ROWS, "ref").normal(9, 2)
    nobody = Feedback(torch.zeros(ROWS), torch.zeros(ROWS), torch.zeros(ROWS).long())
    whole = girsanov(evaluation(average(queries, 9)[0], v, {"ref": ref}, girsanov), nobody)
    each = [
        girsanov(evaluation(q, v[:, s], {"ref": ref[:, s]}, girsanov), nobody) for s, q in enumerate(queries)
    ]
    torch.testing.assert_close(whole, torch.stack(each).mean(0))


def test_gains_and_credit_are_means_over_the_draws(queries: Sequence[Query], rollout: Rollout) -> None:
    gained = [replace(q, gain=float(s)) for s, q in enumerate(queries)]
    assert [query.gain for query in average(gained, 3)] == [1.0, 4.0, 7.0]
    rows = [replace(q, gain=torch.full((ROWS,), float(s))) for s, q in enumerate(queries)]
    assert torch.equal(torch.as_tensor(average(rows, 9)[0].gain), torch.full((ROWS,), 4.0))
    by_step = torch.arange(ROWS * 10.0).view(ROWS, 10)
    feedback = Feedback(torch.zeros(ROWS), by_step, rollout.group)
    merged = average(queries, 3)[0]
    found = feedback_of(feedback, rollout, torch.arange(ROWS), merged.k, "sample").advantage
    torch.testing.assert_close(found, by_step.gather(1, merged.k).mean(1))


@pytest.mark.parametrize("count", [2, 4, 10])
def test_a_count_that_does_not_divide_is_refused(queries: Sequence[Query], count: int) -> None:
    with pytest.raises(ValueError, match=rf"batch.draws = {count} must divide the 9 queries"):
        average(queries, count)
