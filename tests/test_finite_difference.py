"""Finite differences (FDFO): the step it takes, what it costs, and that a pair is a group of two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pieces import credit, draws, evaluation, gradient, sample

from ablate.contract.errors import IncompatibleRun
from ablate.estimators.finite_difference import FiniteDifference
from ablate.groups import siblings
from ablate.networks import evaluate
from ablate.objectives.epg import EPG
from ablate.objectives.spo import SPO
from ablate.samplers.grids import Double
from ablate.samplers.ode import EulerODE
from ablate.starts.noise import Noise
from ablate.types import Feedback, Rollout

Make = Callable[..., Any]
ODE = EulerODE(10, Double(3.0))
FINITE = FiniteDifference(ODE)
REWARD = torch.tensor([0.3, -0.3, -1.0, 1.0, 0.5, -0.5, 2.0, -2.0]).double()


@pytest.fixture
def pairs(policy: Any, part: Make) -> Rollout:
    """Four pairs from nearly one start, in fp64."""
    rollout = sample(policy, ODE, part("start", "pairs"), keep="states", groups=4, size=2)
    assert rollout.path is not None and rollout.path.v is not None
    path = replace(rollout.path, x=rollout.path.x.double(), v=rollout.path.v.double())
    return replace(rollout, x0=rollout.x0.double(), path=path)


def test_the_step_of_fdfo(pairs: Rollout) -> None:
    """On pairs the gradient in v at v = v_old is 2 dR n / D, on every stored step; old scores 0."""
    ends = pairs.x0.view(4, 2, 2)
    dx = ((ends - ends.flip(1)) / 2).flatten(0, 1)
    n = dx / (dx.square().mean(1, keepdim=True) + 1e-6)
    queries = FINITE.queries(pairs, torch.arange(8), draws(8))
    assert [int(query.k[0]) for query in queries] == list(range(10))
    assert pairs.path is not None and pairs.path.v is not None
    for k, query in enumerate(queries):
        v = pairs.path.v[:, k].clone().requires_grad_()
        torch.testing.assert_close(query.target, v - n)
        ev = replace(evaluation(query, v, {}, EPG(ratio=False)), log_prob_of={"old": query.known["old"]})
        assert torch.equal(ev.log_prob, query.known["old"])
        loss = SPO(0.03)(ev, credit(REWARD)).per_sample
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), v)[0], 2 * REWARD[:, None] * n / 2)


def test_the_score_is_the_squared_distance_but_for_a_constant(pairs: Rollout) -> None:
    query = FINITE.queries(pairs, torch.arange(8), draws(8))[2]
    assert pairs.path is not None and pairs.path.v is not None
    drawn = pairs.path.v[:, 2]
    v = drawn + draws(8, "v").normal(2).double()
    gap = -(v - query.target).square().mean(1) + (drawn - query.target).square().mean(1)
    torch.testing.assert_close(query.log_prob(v), gap)


def test_it_costs_one_forward(policy: Any) -> None:
    """What old answered was stored when it drew: theta alone runs, at a log-ratio of 0."""
    rollout = sample(policy, ODE, Noise(0.3), keep="states", groups=4, size=2)
    query = FINITE.queries(rollout, torch.arange(8), draws(8))[3]
    before = policy.forwards
    ev = evaluate(policy, query, SPO(0.03).uses)
    assert policy.forwards - before == 8
    torch.testing.assert_close(ev.log_prob, ev.log_prob_of["old"], rtol=0, atol=1e-4)


def test_a_pair_is_a_group_of_two(pairs: Rollout, part: Make) -> None:
    """objective=fdfo takes, on a path's states and on-policy, the step of objective=spo at this estimator."""
    index = torch.arange(8)
    query = FINITE.queries(pairs, index, draws(8))[4]
    assert pairs.path is not None and pairs.path.v is not None
    v = pairs.path.v[:, 4]
    feedback = Feedback(REWARD, REWARD, pairs.group)
    fb = replace(credit(REWARD), siblings=siblings(feedback, pairs, index, query.k))
    direction = gradient(part("objective", "fdfo"), query, v, {"old": v}, fb)
    torch.testing.assert_close(direction, gradient(SPO(0.03), query, v, {"old": v}, fb))


def test_equal_endpoints_lean_nowhere(policy: Any) -> None:
    rollout = sample(policy, ODE, Noise(0.0), keep="states", groups=2, size=4)
    rollout = replace(rollout, x0=rollout.x0[[0] * 4 + [4] * 4])
    for query in FINITE.queries(rollout, torch.arange(8), draws(8)):
        v = query.target + 1.0
        torch.testing.assert_close(query.log_prob(v), -torch.ones(8))


def test_what_cannot_be_is_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match=r"estimator.floor = 0.0 must be positive"):
        FiniteDifference(ODE, 0.0)
    bare = sample(policy, ODE, Noise(), keep="x0", groups=2, size=2)
    with pytest.raises(IncompatibleRun, match="kept its velocities"):
        FINITE.queries(bare, torch.arange(4), draws(4))
