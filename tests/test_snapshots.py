"""Snapshots: the published decays, whose turn it is, and the arithmetic of following."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learning import learn
from pieces import sample
from torch import Tensor

from ablate import build
from ablate.distributed import Distributed
from ablate.key import Key
from ablate.protocols import Policy, Schedule
from ablate.snapshots.constant import Constant
from ablate.snapshots.handover import Handover
from ablate.snapshots.ramp import Ramp
from ablate.snapshots.snapshots import Snapshot, Snapshots
from ablate.snapshots.warmup import Warmup
from ablate.types import Feedback

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("schedule", "published"),
    [
        (Constant(0.0), {0: 0, 1: 0, 10**6: 0}),  # type 0
        (Ramp(0.001, 0.5), {0: 0, 1: 0.001, 100: 0.1, 499: 0.499, 500: 0.5, 900: 0.5}),  # type 1
        (
            Ramp(0.0075, 0.999, flat=75),
            {0: 0, 75: 0, 76: 0.0075, 100: 0.1875, 208: 0.9975, 209: 0.999},
        ),  # type 2
        (Ramp(0.01, 0.5, flat=10), {0: 0, 10: 0, 11: 0.01, 59: 0.49, 60: 0.5, 99: 0.5}),  # type 3
        (Ramp(0.001, 0.3), {0: 0, 100: 0.1, 300: 0.3, 301: 0.3}),  # AWM and DGPO
        (Ramp(0.005, 0.999, start=0.25), {0: 0.25, 1: 0.255, 100: 0.75, 150: 0.999}),  # CRD "0-.25-.005-.999"
        (Ramp(0.001, 0.5, start=0.25), {0: 0.25, 100: 0.35, 250: 0.5, 300: 0.5}),  # CRD for GenEval
        (Ramp(0.01, 0.9), {0: 0, 1: 0.01, 90: 0.9, 91: 0.9}),  # RAM
        (Warmup(0.9), {0: 0.1, 1: 2 / 11, 8: 0.5, 80: 0.9, 81: 0.9, 1000: 0.9}),  # evaluation average
        (Warmup(0.99), {0: 0.1, 890: 0.99, 10**6: 0.99}),
    ],
)
def test_published_decays(schedule: Schedule, published: dict[int, float]) -> None:
    assert {step: schedule(step) for step in published} == pytest.approx(published)


@given(
    slope=st.floats(0, 1),
    start=st.floats(0, 0.5),
    end=st.floats(0.5, 1),
    flat=st.integers(0, 99),
    cap=st.floats(0, 1),
)
def test_decays_rise_and_stay_between_copying_and_freezing(
    slope: float, start: float, end: float, flat: int, cap: float
) -> None:
    for schedule in (Ramp(slope, end, flat, start), Warmup(cap), Constant(cap)):
        values = [schedule(step) for step in range(0, 300, 7)]
        assert all(0 <= value <= 1 for value in values)
        assert values == sorted(values)
    assert Ramp(slope, end, flat, start)(flat) == start


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(1.1), "snapshot decay = 1.1 must lie in"),
        (lambda: Constant(-0.1), "snapshot decay = -0.1 must lie in"),
        (lambda: Warmup(2.0), "snapshot decay = 2.0 must lie in"),
        (lambda: Ramp(0.1, 1.5), "0 <= start = 0.0 <= end = 1.5 <= 1"),
        (lambda: Ramp(0.1, 0.3, start=0.4), "0 <= start = 0.4 <= end = 0.3 <= 1"),
        (lambda: Ramp(-0.1, 0.3), "slope = -0.1 and flat = 0 must not be negative"),
        (lambda: Ramp(0.1, 0.3, flat=-1), "slope = 0.1 and flat = -1 must not be negative"),
        (lambda: Snapshot(Constant(0.0), "epoch"), "per = 'epoch' must be 'step' or 'iteration'"),  # type: ignore
        (lambda: Handover(Constant(0.0), "epoch", "theta", "old", 1), "per = 'epoch'"),  # type: ignore
        (lambda: Handover(Constant(0.0), "step", "theta", "old", -1), "after = -1 must not be negative"),
        (
            lambda: Snapshots("theta", {"a": Handover(Constant(0.0), "step", "theta", "b", 1)}),
            "source = b is no role",
        ),
        (lambda: Snapshots("old", {}), "snapshots.rollout = old is no role"),
        (lambda: Snapshots("ref", {}), "snapshots.rollout = ref is no role"),
        (lambda: Snapshots("theta", {"ref": Snapshot(Constant(0.0), "step")}), "which always exist"),
        (lambda: Snapshots("theta", {"a": Snapshot(Constant(0.0), "step", "b")}), "source = b is no role"),
        (
            lambda: Snapshots("theta", {"a": Snapshot(Constant(0.0), "step", "ref")}),
            "source = ref is no role",
        ),
    ],
)
def test_what_cannot_follow_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture
def fresh(compose: Make, parts: Make, distributed: Distributed) -> Callable[[Snapshots], Policy]:
    """A policy with the snapshots' roles, theta moved away from the base."""

    def make(snapshots: Snapshots) -> Policy:
        config = compose()
        policy: Policy = build.make(
            config["policy"], snapshots=list(snapshots.roles), device=distributed.device
        )
        move(policy)
        return policy

    return make


def move(policy: Policy, by: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(by)


def weights(policy: Policy, role: str) -> Tensor:
    """All weights of a role in one row."""
    mine = {name: value for name, value in policy.state_dict().items() if name.startswith(f"{role}/")}
    return torch.cat([value.flatten() for value in mine.values()])


def test_decay_zero_copies_every_bit(fresh: Callable[[Snapshots], Policy]) -> None:
    policy = fresh(Snapshots("theta", {"old": Snapshot(Constant(0.0), "step")}))
    assert not torch.equal(weights(policy, "old"), weights(policy, "theta"))
    policy.blend("old", "theta", 0.0)
    assert torch.equal(weights(policy, "old"), weights(policy, "theta"))


@pytest.mark.parametrize("decay", [0.001, 0.3, 0.999, 1.0])
def test_blend_is_a_convex_combination(fresh: Callable[[Snapshots], Policy], decay: float) -> None:
    policy = fresh(Snapshots("theta", {"old": Snapshot(Constant(0.0), "step")}))
    old, theta = weights(policy, "old"), weights(policy, "theta")
    policy.blend("old", "theta", decay)
    torch.testing.assert_close(
        weights(policy, "old"), decay * old + (1 - decay) * theta, rtol=1e-6, atol=1e-7
    )
    assert torch.equal(weights(policy, "theta"), theta)
    if decay == 1:
        assert torch.equal(weights(policy, "old"), old)


def test_roles_follow_at_their_turn(fresh: Callable[[Snapshots], Policy]) -> None:
    """One after every step, one at the end of an iteration, one frozen, one a snapshot of a snapshot."""
    snapshots = Snapshots(
        "old",
        {
            "ema": Snapshot(Constant(0.5), "step"),
            "old": Snapshot(Constant(0.0), "iteration"),
            "still": Snapshot(Constant(1.0), "step"),
            "second": Snapshot(Constant(0.0), "iteration", "ema"),
        },
    )
    policy = fresh(snapshots)
    base = {role: weights(policy, role) for role in snapshots.roles}
    theta = weights(policy, "theta")
    snapshots.follow(policy, 1, "step")
    torch.testing.assert_close(weights(policy, "ema"), 0.5 * (base["ema"] + theta))
    assert torch.equal(weights(policy, "old"), base["old"])
    snapshots.follow(policy, 1, "iteration")
    assert torch.equal(weights(policy, "old"), theta)
    assert torch.equal(weights(policy, "second"), weights(policy, "ema"))
    assert torch.equal(weights(policy, "still"), base["still"])


def test_a_role_is_handed_over(fresh: Callable[[Snapshots], Policy]) -> None:
    """It copies its first source up to the step, that step included, and the other from then on."""
    snapshots = Snapshots(
        "behaviour",
        {
            "still": Snapshot(Constant(1.0), "step"),
            "behaviour": Handover(Constant(0.0), "iteration", "theta", "still", 200),
        },
    )
    policy = fresh(snapshots)
    for step, source in ((1, "theta"), (200, "theta"), (201, "still"), (999, "still")):
        snapshots.follow(policy, step, "step")
        snapshots.follow(policy, step, "iteration")
        assert torch.equal(weights(policy, "behaviour"), weights(policy, source))
    assert not torch.equal(weights(policy, "still"), weights(policy, "theta"))


def test_an_average_over_steps(fresh: Callable[[Snapshots], Policy]) -> None:
    """The evaluation average equals the recursion written out, its decay taken at the optimizer's step."""
    snapshots = Snapshots("theta", {"ema": Snapshot(Warmup(0.9), "step")})
    policy = fresh(snapshots)
    expected = weights(policy, "ema").double()
    for step in range(1, 6):
        move(policy, 0.01 * step)
        decay = min((1 + step) / (10 + step), 0.9)
        expected = decay * expected + (1 - decay) * weights(policy, "theta").double()
        snapshots.follow(policy, step, "step")
    torch.testing.assert_close(weights(policy, "ema").double(), expected, rtol=1e-6, atol=1e-6)


class Asked:
    """A schedule that copies, and remembers the steps it was asked for."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, step: int) -> float:
        self.steps.append(step)
        return 0.0


def test_the_learner_gives_each_turn(parts: Make, policy: Policy) -> None:
    """Two iterations of three optimizer steps: a step's turn comes at 1 .. 6, an iteration's at 3 and 6."""
    by_step, by_iteration = Asked(), Asked()
    roles = {"ema": Snapshot(by_step, "step"), "old": Snapshot(by_iteration, "iteration")}
    taught = replace(parts(), snapshots=Snapshots("old", roles))
    learner, trained = learn(taught, micro=4, updates=3, lr=1e3)
    rollout = sample(policy, taught.sampler, taught.start, keep="x0", groups=3, size=4)
    feedback = Feedback(rollout.x0[:, 0], rollout.x0[:, 0], rollout.group)
    for iteration in range(2):
        learner.update(rollout, feedback, Key((0, iteration, "update")))
    assert by_step.steps == [1, 2, 3, 4, 5, 6] and by_iteration.steps == [3, 6]
    assert torch.equal(weights(trained, "ema"), weights(trained, "theta"))
    assert not torch.equal(weights(trained, "theta"), weights(policy, "theta"))


def test_options_name_a_role_that_draws(part: Make, each_snapshots: str) -> None:
    snapshots: Snapshots = part("snapshots", each_snapshots)
    assert snapshots.rollout in {"theta", *snapshots.roles}
    assert all(
        0 <= snapshot.decay(step) <= 1 for snapshot in snapshots.roles.values() for step in (0, 1, 10**4)
    )


def test_decay_types_of_the_options(part: Make) -> None:
    assert part("snapshots", "on_policy").roles["old"].decay == Constant(0.0)
    assert part("snapshots", "nft_slow").roles["old"].decay == Ramp(0.001, 0.5)
    assert part("snapshots", "nft_ocr").roles["old"].decay == Ramp(0.0075, 0.999, flat=75)
    assert part("snapshots", "rdr_delayed").roles["old"].decay == Ramp(0.01, 0.5, flat=10)
    assert part("snapshots", "frozen_old").roles["old"].decay == Constant(1.0)


def test_roles_of_the_options(part: Make) -> None:
    """CRD parts what draws from what is compared with; AWM keeps a slow average; DGPO hands over."""
    crd, coupled, awm, dgpo = (part("snapshots", name) for name in ("crd", "crd_coupled", "awm", "dgpo"))
    assert crd.rollout == "behaviour" and coupled.rollout == "old"
    assert crd.roles["old"].decay == coupled.roles["old"].decay == Ramp(0.005, 0.999, start=0.25)
    assert crd.roles["behaviour"].decay == Ramp(0.0075, 0.999, flat=75)
    assert awm.rollout == "theta" and awm.roles["prox"].decay == Ramp(0.001, 0.3)
    assert dgpo.roles["old"] == Snapshot(Ramp(0.001, 0.3), "step")
    assert [dgpo.roles[dgpo.rollout].source_at(step) for step in (0, 200, 201)] == ["theta", "theta", "old"]
