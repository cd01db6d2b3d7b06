"""The protocols close over awkward methods: each is a part, with no change elsewhere, and keeps its law."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import vectors
from awkward import FiniteDifference, GroupDirection
from hypothesis import given
from hypothesis import strategies as st
from learning import Lesson
from pieces import credit, draws, evaluation, gradient, point, sample

from ablate.estimators.elbo import ELBO
from ablate.estimators.times import Stratified
from ablate.estimators.trajectory import Trajectory
from ablate.estimators.weights import Adaptive
from ablate.networks import evaluate
from ablate.objectives.best_of_n import BestOfN
from ablate.objectives.crd import CRD
from ablate.objectives.dgpo import DGPO
from ablate.objectives.dppo import DPPO
from ablate.objectives.epg import EPG
from ablate.objectives.grpo import GRPO
from ablate.objectives.guard import Guard
from ablate.objectives.nft import NFT
from ablate.objectives.spo import SPO
from ablate.objectives.velocity_matching import VelocityMatching
from ablate.parts import Parts
from ablate.samplers.grids import Double
from ablate.samplers.ode import EulerODE
from ablate.samplers.sde import FlowSDE
from ablate.settings import BatchSizes
from ablate.starts.noise import Noise
from ablate.types import Feedback, Query, Rollout, Siblings

Make = Callable[..., Any]
ODE = EulerODE(10, Double(3.0))
SDE = FlowSDE(10, Double(3.0), 0.7)
GROUPS, SIZE = 3, 4
ROWS = GROUPS * SIZE
FIVE = ELBO(ODE, Stratified(5, 0.05, 1.0), Adaptive(), tie_times="group")
FINITE = FiniteDifference(ODE)
# objective, estimator, micro-batches it must not depend on (none of them splits a group for CRD and DGPO)
METHODS = {
    "epg": (EPG(), FIVE, (1, 3, 6)),
    "grpo": (GRPO(1e-3), Trajectory(SDE), (1, 3, 6)),
    "nft": (NFT(0.5), FIVE, (1, 3, 6)),
    "crd": (CRD(0.7), FIVE, (4, 8)),
    "dgpo": (DGPO(100.0, 1e-2), FIVE, (4, 8)),
    "guard": (Guard(0.5), Trajectory(SDE), (1, 3, 6)),
    "dppo": (DPPO(1e-3), Trajectory(SDE), (1, 3, 6)),
    "ram": (VelocityMatching("ref", 3.0), FIVE, (1, 3, 6)),
    "best of n": (BestOfN(), FIVE, (1, 3, 6)),
    "spo": (SPO(0.03), FINITE, (1, 3, 6)),
    "group direction": (GroupDirection(0.3, 1.0), FIVE, (1, 3, 6)),
    "group covariance": (GroupDirection(0.3), FIVE, (1, 3, 6)),
}
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def base(parts: Make) -> Parts:
    return parts()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def drawn(policy: Any) -> Callable[[Any], Rollout]:
    """A rollout that keeps what the estimator asks for, of nearly paired starts."""

    def draw(estimator: Any) -> Rollout:
        start = Noise(0.3)
        return sample(policy, estimator.sampler, start, keep=estimator.keep, groups=GROUPS, size=SIZE)

    return draw


def scored(rollout: Rollout, word: str = "reward") -> Feedback:
    """Random rewards, centred by group."""
    rewards = draws(len(rollout.x0), word).normal().view(GROUPS, -1)
    return Feedback(rewards.flatten(), (rewards - rewards.mean(1, keepdim=True)).flatten(), rollout.group)


@each_method
@pytest.mark.parametrize("off_policy", [False, True])
def test_the_micro_batch_changes_nothing(base: Parts, drawn: Make, method: str, off_policy: bool) -> None:
    """Also for objectives over siblings when a micro-batch splits their group."""
    objective, estimator, sizes = METHODS[method]
    rollout = drawn(estimator)
    lesson = Lesson(replace(base, objective=objective, estimator=estimator), off_policy=off_policy)
    whole = lesson.gradient(rollout, scored(rollout), micro=ROWS)
    assert float(whole.abs().max()) > 1e-5
    for micro in sizes:
        found = lesson.gradient(rollout, scored(rollout), micro=micro)
        torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


@each_method
def test_equal_rewards_teach_nothing(base: Parts, drawn: Make, method: str) -> None:
    """The gradient is 0 before any update, to the rounding of a path's stored velocities."""
    objective, estimator, _ = METHODS[method]
    rollout = drawn(estimator)
    nothing = Feedback(torch.ones(ROWS), torch.zeros(ROWS), rollout.group)
    lesson = Lesson(replace(base, objective=objective, estimator=estimator))
    assert float(lesson.gradient(rollout, nothing, micro=ROWS).abs().max()) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_crd_on_policy_is_epg(seed: int) -> None:
    """Centring cancels against a credit that is centred already: the gradient is that of -A L."""
    x0, eps, v = (draws(8, seed, name).normal(3).double() for name in ("x0", "eps", "v"))
    query = point(x0, eps, torch.linspace(0.1, 0.9, 8).double(), Adaptive())
    raw = draws(8, seed, "credit").normal().double().view(2, 4)
    fb = credit((raw - raw.mean(1, keepdim=True)).flatten(), torch.arange(2).repeat_interleave(4))
    found = gradient(CRD(0.3), query, v, {"old": v}, fb)
    torch.testing.assert_close(found, gradient(EPG(ratio=False), query, v, {}, fb))


def test_crd_with_averaged_draws(base: Parts, drawn: Make) -> None:
    """draws=5 is draws=1 at v = v_old, where only mean gradients count; off-policy it is another loss."""
    rollout = drawn(FIVE)
    parts = replace(base, objective=CRD(0.7), estimator=FIVE)
    for off_policy in (False, True):
        lesson = Lesson(parts, off_policy=off_policy)
        one, five = (lesson.gradient(rollout, scored(rollout), micro=SIZE, draws=n) for n in (1, 5))
        same = torch.allclose(one, five, rtol=1e-3, atol=1e-5)
        assert same != off_policy


def test_crd_is_a_loss_over_whole_groups(base: Parts, compose: Make) -> None:
    """It refuses micro-batches that split them, and its loss at one draw knows its group alone."""
    batch = BatchSizes(**(compose()["batch"] | {"group_size": 16, "micro": 24}))
    with pytest.raises(ValueError, match=r"micro = 24 must be a multiple of batch.group_size = 16: CRD"):
        replace(base, objective=CRD(0.7)).check(batch, "ema")
    batch = BatchSizes(**(compose()["batch"] | {"draws": 3}))
    with pytest.raises(ValueError, match=r"batch.draws = 3 must be 1: GroupDirection"):
        replace(base, objective=GroupDirection(1.0)).check(batch, "ema")


@given(a=st.floats(-2, 2).filter(lambda a: abs(a) > 1e-3), clip=st.floats(0.01, 0.5))
def test_spo_rests_at_its_clip(a: float, clip: float) -> None:
    """Slope -A at r = 1, and 0 at r = 1 + sign(A) clip."""
    for ratio, expected in ((1.0, -a), (1 + math.copysign(clip, a), 0.0)):
        score = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
        query = replace(point(vectors.X0, vectors.EPS, vectors.T, Adaptive()), log_prob=lambda v, s=score: s)
        ev = replace(
            evaluation(query, vectors.THETA, {}, EPG(ratio=False)), log_prob_of={"old": torch.zeros(1)}
        )
        loss = SPO(clip)(ev, credit(torch.tensor([a], dtype=torch.float64))).per_sample
        assert float(torch.autograd.grad(loss.sum(), score)[0]) == pytest.approx(expected, abs=1e-9)


def exactly(rollout: Rollout) -> Rollout:
    """In fp64: where a pair ends in nearly one point, n is large and fp32 loses it."""
    assert rollout.path is not None and rollout.path.v is not None
    path = replace(rollout.path, x=rollout.path.x.double(), v=rollout.path.v.double())
    return replace(rollout, x0=rollout.x0.double(), path=path)


def test_finite_differences(policy: Any) -> None:
    """On pairs the gradient in v at v = v_old is 2 dR n / D, on every stored step; old costs no forward."""
    rollout = exactly(sample(policy, ODE, Noise(0.0706), keep="states", groups=4, size=2))
    pairs = rollout.x0.view(4, 2, 2)
    dx = ((pairs - pairs.flip(1)) / 2).flatten(0, 1)
    n = dx / (dx.square().mean(1, keepdim=True) + 1e-6)
    difference = torch.tensor([0.3, -0.3, -1.0, 1.0, 0.0, 0.0, 2.0, -2.0]).double()
    queries = FINITE.queries(rollout, torch.arange(8), draws(8))
    assert [int(query.k[0]) for query in queries] == list(range(10))
    assert rollout.path is not None and rollout.path.v is not None
    for k, query in enumerate(queries):
        v = rollout.path.v[:, k].clone().requires_grad_()
        ev = replace(evaluation(query, v, {}, EPG(ratio=False)), log_prob_of={"old": query.known["old"]})
        loss = SPO(0.03)(ev, credit(difference)).per_sample
        found = torch.autograd.grad(loss.sum(), v)[0]
        torch.testing.assert_close(found, 2 * difference[:, None] * n / 2)


def test_finite_differences_cost_one_forward(policy: Any) -> None:
    """What old answered was stored when it drew: theta alone runs, at a log-ratio of 0."""
    rollout = sample(policy, ODE, Noise(0.3), keep="states", groups=4, size=2)
    query = FINITE.queries(rollout, torch.arange(8), draws(8))[3]
    before = policy.forwards
    ev = evaluate(policy, query, SPO(0.03).uses)
    assert policy.forwards - before == 8
    torch.testing.assert_close(ev.log_prob, ev.log_prob_of["old"], rtol=1e-5, atol=1e-5)


def test_a_pair_is_a_group_of_two(policy: Any) -> None:
    """FDFO's step and the group covariance of the same pair are parallel: both are dR dx."""
    rollout = exactly(sample(policy, ODE, Noise(0.0706), keep="states", groups=4, size=2))
    difference = torch.tensor([0.3, -0.3, -1.0, 1.0, 0.5, -0.5, 2.0, -2.0]).double()
    query = FINITE.queries(rollout, torch.arange(8), draws(8))[4]
    assert rollout.path is not None and rollout.path.v is not None
    v = rollout.path.v[:, 4]
    siblings = Siblings(
        rollout.x0.view(4, 2, 2).repeat_interleave(2, 0), difference.view(4, 2).repeat_interleave(2, 0)
    )
    fb = replace(credit(difference), siblings=siblings)
    direction = gradient(GroupDirection(0.1), query, v, {"old": v}, fb)
    step = gradient(SPO(0.03), query, v, {"old": v}, fb)
    cosine = torch.nn.functional.cosine_similarity(direction, step)
    torch.testing.assert_close(cosine, torch.ones(8).double())


def family(size: int) -> tuple[Query, Siblings]:
    x0, a = draws(6, "siblings").normal(size, 3).double(), draws(6, "a").normal(size).double()
    t = (0.3 + 0.6 * draws(6, "t").uniform()).double()
    query = point(x0[:, 0], draws(6, "eps").normal(3).double(), t, Adaptive())
    return query, Siblings(x0, a)


def test_kernel_direction_is_the_gradient_of_the_smoothed_advantage() -> None:
    """At bandwidth 1: ``grad sum_j w_j(x_t) A_j = (1 - t)/t^2 C``, and the same by siblings' velocities."""
    query, siblings = family(5)
    x_t = query.x_t.clone().requires_grad_()
    c, w = GroupDirection(1.0, 1.0).direction(replace(query, x_t=x_t), siblings)
    smoothed = (w * siblings.advantage).sum(1)
    expected = torch.autograd.grad(smoothed.sum(), x_t)[0]
    t = query.t[:, None]
    torch.testing.assert_close((1 - t) / t.square() * c.detach(), expected)
    velocities = (query.x_t[:, None] - siblings.x0) / t[:, None]
    centred = w * (siblings.advantage - smoothed[:, None])
    by_velocity = -(1 - t) / t * (centred[..., None] * velocities).sum(1)
    torch.testing.assert_close(by_velocity.detach(), expected)


def test_without_a_bandwidth_it_is_the_covariance() -> None:
    query, siblings = family(5)
    c, w = GroupDirection(1.0).direction(query, siblings)
    torch.testing.assert_close(w, torch.full((6, 5), 0.2).double())
    x0, a = siblings.x0, siblings.advantage
    covariance = ((a - a.mean(1, keepdim=True))[..., None] * (x0 - x0.mean(1, keepdim=True))).mean(1)
    torch.testing.assert_close(c, covariance)
    query, siblings = family(2)
    c, _ = GroupDirection(1.0).direction(query, siblings)
    halves = [(z[:, 0] - z[:, 1]) / 2 for z in (siblings.advantage, siblings.x0)]
    torch.testing.assert_close(c, halves[0][:, None] * halves[1])
