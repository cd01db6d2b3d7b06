"""Temporal profiles: six published names, three profiles, two places; a clip and a bias see the inner one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pieces import credit, draws, evaluation, sample
from torch import Tensor

from ablate import build
from ablate.averaging import average
from ablate.contract.errors import UserError
from ablate.estimators.profile import Factor
from ablate.networks import evaluate
from ablate.objectives.grpo import GRPO
from ablate.objectives.guard import Guard
from ablate.protocols import Policy
from ablate.types import Query, Transition

Make = Callable[..., Any]
ROWS = 6
PROFILES = ("tempflow", "pcpo", "guard", "fairclip", "fairclip2")
NET = {  # |d (gain L)/dv| D per unit of drawn noise at v = v_old, steps 0, 1, 4, 8; a = .7, double grid
    "trajectory": (0.057, 0.078, 0.264, 1.487),
    "trajectory_tempflow": (0.090, 0.131, 0.233, 0.754),
    "trajectory_pcpo": (0.172, 0.202, 0.359, 1.161),
    "trajectory_guard": (1.0, 1.245, 1.245, 1.245),
    "trajectory_fairclip": (0.057, 0.078, 0.264, 1.487),
    "trajectory_fairclip2": (1.0, 1.245, 1.245, 1.245),
}
numbers = st.floats(-1, 1)


@pytest.fixture(scope="module")
def queries_of(part: Make, policy: Policy) -> Callable[[str], Sequence[Query]]:
    """All nine queries of Flow-SDE paths, in fp64, by the option's name."""
    sampler = part("sampler", "sde")
    drawn = sample(policy, sampler, part("start", "iid"), keep="transitions", groups=2, size=3)
    assert drawn.path is not None and drawn.path.log_prob is not None
    old = drawn.path
    exact = replace(old, x=old.x.double(), x_next=old.x_next.double(), log_prob=old.log_prob.double())

    def ask(option: str) -> Sequence[Query]:
        estimator = part("estimator", option, sampler=sampler)
        return estimator.queries(replace(drawn, path=exact), torch.arange(ROWS), draws(ROWS))  # type: ignore[no-any-return]

    return ask


def velocity(query: Query, word: str = "v") -> Tensor:
    return draws(ROWS, word, int(query.k[0])).normal(2).double()


def net(query: Query) -> Tensor:
    """The pull of a unit of noise [B], wherever theta is: v is made the one whose draw had noise 1."""
    transition = query.scored_step().transition
    v = (query.target - transition.std / transition.c2).requires_grad_()
    pull = torch.autograd.grad((torch.as_tensor(query.gain) * query.log_prob(v)).sum(), v)[0]
    return pull.sum(1).abs()


@pytest.mark.parametrize("option", NET)
def test_published_profiles(queries_of: Make, option: str) -> None:
    found = torch.stack([net(query) for query in queries_of(option)])
    torch.testing.assert_close(found, found[:, :1].expand_as(found))  # the same for all samples
    assert found[[0, 1, 4, 8], 0].tolist() == pytest.approx(NET[option], abs=5.1e-4)


def test_six_names_are_three_profiles(queries_of: Make) -> None:
    found = {name: torch.stack([net(query)[0] for query in queries_of(name)]) for name in NET}
    length = torch.stack([query.scored_step().length[0] for query in queries_of("trajectory")]).double()
    ratio = found["trajectory_tempflow"] / found["trajectory_pcpo"]
    torch.testing.assert_close(ratio[1:], ratio[1:2].expand(8), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["trajectory_pcpo"], 4.3152 * length, rtol=1e-5, atol=0)
    torch.testing.assert_close(found["trajectory_tempflow"][1:], 2.25 * 1.245 * length[1:], rtol=1e-5, atol=0)
    for name in ("trajectory_guard", "trajectory_fairclip2"):
        torch.testing.assert_close(found[name][1:], torch.full((8,), 1.245).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["trajectory_fairclip"], found["trajectory"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", PROFILES)
def test_the_drawing_role_is_scaled_alike(queries_of: Make, policy: Policy, name: str) -> None:
    """Its stored score is that of its velocity: before any update every log-ratio is 0."""
    for query in queries_of(f"trajectory_{name}"):
        exact = replace(query, x_t=query.x_t.float())
        ev = evaluate(policy, exact, {"log_prob:old"})
        torch.testing.assert_close(ev.log_prob, ev.log_prob_of["old"], rtol=1e-5, atol=1e-5)


@given(c1=numbers, c2=st.floats(-1, -0.1), std=st.floats(0.1, 1), seed=st.integers(0, 10**6))
def test_the_log_ratio_of_a_step(c1: float, c2: float, std: float, seed: int) -> None:
    """``log r = -(m1 + m2)``, m1 = mean (c_k d)^2 / 2, m2 = c_k mean (d eps), d from the drawing velocity."""
    noise = draws(4, seed)
    x, eps, old, v = (noise.of(name).normal(5).double() for name in ("x", "eps", "old", "v"))
    full = torch.ones(4, 1).double()
    step = Transition(c1 * x, c2 * full, std * full)
    x_next = step.sample(old, eps)
    away = abs(c2) / std * (v - old)
    expected = -(0.5 * away.square() + away * eps).mean(1)
    torch.testing.assert_close(step.log_prob(x_next, v) - step.log_prob(x_next, old), expected)


@pytest.mark.parametrize("name", PROFILES)
def test_guard_stays_unbiased(queries_of: Make, name: str) -> None:
    """Its exponent stays linear in v, also when the log-ratio it corrects is scaled, and over draws."""
    queries = queries_of(f"trajectory_{name}")
    advantage = -torch.ones(ROWS).double()

    def exponent(query: Query, v: Tensor, old: Tensor) -> Tensor:
        guard = Guard(0.99, reweight=False)
        return guard(evaluation(query, v, {"old": old}, guard), credit(advantage)).per_sample.log()

    for query in queries:
        old, away = velocity(query), 1e-2 * velocity(query, "away")
        one, two = (exponent(query, old + far * away, old) for far in (1, 2))
        torch.testing.assert_close(two, 2 * one, rtol=1e-6, atol=1e-12)
    merged = average(queries, 9)[0]
    old, away = (torch.stack([velocity(q, word) for q in queries], 1) for word in ("v", "away"))
    one, two = (exponent(merged, old + far * away, old) for far in (1e-3, 2e-3))
    torch.testing.assert_close(two, 2 * one, rtol=1e-6, atol=1e-12)


def test_the_inside_moves_the_clip_and_not_the_gradient(queries_of: Make) -> None:
    """fairclip: at theta = old GRPO's gradient is plain, but its clip sees std^2 times the log-ratio."""
    plain, fair = queries_of("trajectory")[4], queries_of("trajectory_fairclip")[4]
    old, objective = velocity(plain), GRPO(0.02)
    losses = []
    for query in (plain, fair):
        v = old.clone().requires_grad_()
        ev = evaluation(query, v, {"old": old}, objective)
        loss = torch.as_tensor(query.gain) * objective(ev, credit(torch.ones(ROWS).double())).per_sample
        losses.append(torch.autograd.grad(loss.sum(), v)[0])
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-12)
    variance = plain.scored_step().transition.std.square()[:, 0]
    towards = old + 0.1 * (plain.target - old)
    moved = [query.log_prob(towards) - query.log_prob(old) for query in (plain, fair)]
    torch.testing.assert_close(moved[1], variance * moved[0], rtol=1e-5, atol=1e-12)


def test_a_penalty_on_steps_stays_in_nats(queries_of: Make, part: Make) -> None:
    penalty, other = part("regularizer", "transition_kl"), velocity(queries_of("trajectory")[3], "ref")
    found = []
    for name in ("trajectory", "trajectory_pcpo"):
        query = queries_of(name)[3]
        ev = evaluation(query, velocity(query), {"ref": other}, penalty)
        found.append(penalty(ev, credit(torch.zeros(ROWS))))
    torch.testing.assert_close(*found)


def test_only_trajectories_have_a_profile(node: Make, part: Make) -> None:
    with pytest.raises(ValueError, match=r"profile scale = 0.0 must be positive"):
        Factor(0.0, 0.0, 0.0, 0.0)
    profile = node("estimator", "trajectory_guard")["profile"]
    with pytest.raises(UserError, match="profile"):
        build.make(node("estimator", "elbo") | {"profile": profile}, sampler=part("sampler", "sde"))
