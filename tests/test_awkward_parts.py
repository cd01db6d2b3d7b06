"""The protocols close over awkward methods: each is a part, with no change elsewhere, and keeps its law."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import vectors
from hypothesis import given
from hypothesis import strategies as st
from learning import Lesson
from pieces import credit, draws, evaluation, gradient, point, sample

from ablate.estimators.elbo import ELBO
from ablate.estimators.finite_difference import FiniteDifference
from ablate.estimators.times import Stratified
from ablate.estimators.trajectory import Trajectory
from ablate.estimators.weights import Adaptive
from ablate.objectives.best_of_n import BestOfN
from ablate.objectives.crd import CRD
from ablate.objectives.dgpo import DGPO
from ablate.objectives.dppo import DPPO
from ablate.objectives.epg import EPG
from ablate.objectives.group_direction import GroupDirection
from ablate.objectives.grpo import GRPO
from ablate.objectives.guard import Guard
from ablate.objectives.nft import NFT
from ablate.objectives.sibling_weights import Equal, Kernel, Median
from ablate.objectives.spo import SPO
from ablate.objectives.velocity_matching import VelocityMatching
from ablate.parts import Parts
from ablate.samplers.grids import Double
from ablate.samplers.ode import EulerODE
from ablate.samplers.sde import FlowSDE
from ablate.settings import BatchSizes
from ablate.starts.noise import Noise
from ablate.types import Feedback, Rollout

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
    "kernel direction": (GroupDirection(Kernel(1.0), 0.3), FIVE, (1, 3, 6)),
    "group covariance": (GroupDirection(Equal(), 0.3), FIVE, (1, 3, 6)),
    "pairwise": (GroupDirection(Median(), 1.0, "none", quadratic="signed"), FIVE, (1, 3, 6)),
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
        replace(base, objective=GroupDirection(Equal(), 1.0)).check(batch, "ema")


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
