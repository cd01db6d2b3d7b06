"""CRD's acceptance (arXiv:2603.14128): hard weights, who draws, who anchors, what it converges to.

That constants of a group cancel, the pairwise identity and the gradient at old are in test_group_objectives,
the ends of the adaptive strength in test_regularizers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blobs import Blobs, mean_loss, queries
from hypothesis import assume, given
from hypothesis import strategies as st
from pieces import credit, draws, evaluation, gradient
from running import TINY
from test_objectives import feedback, off_policy
from torch import Tensor

from ablate import train
from ablate.advantages.zscore import ZScoreGroup
from ablate.clock import Clock
from ablate.contract.rundir import RunDir
from ablate.distributed import Distributed
from ablate.estimators.elbo import ELBO
from ablate.estimators.exact import Exact
from ablate.estimators.times import Permuted, Stratified
from ablate.estimators.trace import Axes
from ablate.estimators.weights import AdaptiveVelocity, Likelihood
from ablate.key import Key
from ablate.loop import Lab, Progress, iterate
from ablate.networks import evaluate
from ablate.objectives.awm import AWM
from ablate.objectives.crd import CRD, HardSign
from ablate.regularizers.girsanov import Girsanov
from ablate.samplers.grids import Double
from ablate.samplers.ode import EulerODE
from ablate.types import Feedback, Rollout

Make = Callable[..., Any]
ODE = EulerODE(10, Double(3.0))
seeds = st.integers(0, 10**6)
SMALL = (
    "batch.prompts=2",
    "batch.group_size=4",
    "batch.micro=8",
    "batch.updates=1",
    "optimizer.lr=1.0e-2",
)


def hard_loss(advantage: Tensor, group: Tensor, sign: HardSign) -> Tensor:
    """Losses at v = v_old with beta 1, where only the rewards are centred."""
    query, v, _ = off_policy(0, 0.0)
    objective = CRD(1.0, weight_temperature=0.0, hard_sign=sign)
    return objective(evaluation(query, v, {"old": v}, objective), credit(advantage, group)).per_sample


def test_hard_weights_centre_on_the_good_and_on_the_bad() -> None:
    """A softmax of q over A > 0, and one over A < 0; by hand, with a group that has no bad sample."""
    a = torch.tensor([2.0, 1.0, -3.0, 0.0, 4.0, 1.0, 0.0, 0.0]).double()
    group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    q = a / 10 + 0.5
    exp = q.exp()
    good = [(exp[:2] * q[:2]).sum() / exp[:2].sum(), (exp[4:6] * q[4:6]).sum() / exp[4:6].sum()]
    bad = [q[2], q[4:].mean()]  # none is bad in the second group: uniform
    expected = 5 * 0.5 * sum((q - torch.stack(end)[group]).square() for end in (good, bad))
    torch.testing.assert_close(hard_loss(a, group, "advantage"), expected)


def test_hard_weights_of_the_release_find_nothing_bad() -> None:
    """It asks q in [0, 1] for its sign: good is whatever is above 0, and the bad are always uniform."""
    a = torch.tensor([2.0, 1.0, -3.0, -7.0, 4.0, 1.0, 0.0, 0.0]).double()
    group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    q = a.clamp(-5, 5) / 10 + 0.5
    assert q[3] == 0  # the one value that is neither
    exp = torch.where(q > 0, q.exp(), 0.0).view(2, 4)
    good = (exp * q.view(2, 4)).sum(1) / exp.sum(1)
    expected = 5 * 0.5 * sum((q - end[group]).square() for end in (good, q.view(2, 4).mean(1)))
    torch.testing.assert_close(hard_loss(a, group, "squashed"), expected)
    assert not torch.allclose(hard_loss(a, group, "advantage"), expected)


def test_a_weight_temperature_or_sign_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="weight_temperature = -1.0 must be 0 or more; 0 weighs"):
        CRD(1.0, weight_temperature=-1.0)
    with pytest.raises(ValueError, match="hard_sign = reward must be advantage or squashed"):
        CRD(1.0, hard_sign="reward")  # type: ignore[arg-type]


@given(seed=seeds, temperature=st.floats(0.1, 3))
def test_at_old_it_is_awm(seed: int, temperature: float) -> None:
    """The same gradient -A dL where no |A| exceeds the bound, whatever beta."""
    query, v, _ = off_policy(seed, 0.0)
    fb = feedback(seed, CRD(1.0))
    assume(float(fb.advantage.abs().max()) < 5)
    ours, awm = (gradient(o, query, v, {"old": v}, fb) for o in (CRD(temperature), AWM(1.0)))
    torch.testing.assert_close(ours, awm)


def laboratory(compose: Make, root: Path, *overrides: str) -> Lab:
    config = compose(*TINY, *overrides, *SMALL)
    return train.assemble(RunDir(root), config, Distributed(0))


def third_rollout(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> tuple[Rollout, dict[str, Tensor]]:
    """The rollout of the third iteration, and what each role would have drawn from its noise."""
    now, seen = Progress(), []
    update = lab.learner.update

    def spy(rollout: Rollout, feedback: Feedback, key: Key) -> dict[str, float]:
        roles = ("theta", *lab.parts.snapshots.roles)
        seen.append((rollout, {role: drawn_by(lab, role, rollout, key) for role in roles}))
        return update(rollout, feedback, key)

    monkeypatch.setattr(lab.learner, "update", spy)
    for _ in range(3):
        now, _ = iterate(lab, now, Clock(lab.distributed, 0.0))
    return seen[-1]


def drawn_by(lab: Lab, role: str, rollout: Rollout, key: Key) -> Tensor:
    noise = Key(key.words[:2]).of("rollout").rows(rollout.sample)
    x, sampler = lab.parts.start(rollout.group, lab.policy.shape, noise), lab.parts.sampler
    with torch.no_grad():
        for k in range(sampler.num_steps):
            step = sampler.step(lab.policy.velocity(role), x, k, rollout.cond, None, noise.of("step", k))
            x = step.x
    return x


@pytest.mark.parametrize(("snapshots", "role"), [("crd_coupled", "old"), ("crd", "behaviour")])
def test_the_sampler_is_old_or_a_role_of_its_own(
    compose: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshots: str, role: str
) -> None:
    """Bit for bit; and by then old has left theta, so that it matters."""
    lab = laboratory(compose, tmp_path, "objective=crd", "estimator=elbo_crd", f"snapshots={snapshots}")
    rollout, roles = third_rollout(lab, monkeypatch)
    assert torch.equal(rollout.x0, roles[role])
    others = {name for name, x0 in roles.items() if torch.equal(x0, rollout.x0)}
    assert others == ({"old"} if role == "old" else {"behaviour", "theta"})  # it copies theta for 75 steps


def test_the_anchor_is_guided_and_nothing_else(compose: Make, tmp_path: Path) -> None:
    """Two forwards of the base per state, v_0 + 4.5 (v_c - v_0); ratios and theta know no guidance."""
    lab = laboratory(compose, tmp_path, "experiment=crd/full", "policy.guidance.ref=4.5")
    uses = lab.parts.objective.uses | lab.parts.regularizer.uses
    assert uses == {"log_prob:old", "v:ref"}  # no likelihood is asked of the guided role
    plain = laboratory(compose, tmp_path, "experiment=crd/full", "~policy.guidance.ref")
    row = replace(lab.parts.estimator, sampler=lab.parts.sampler)
    x0, group = draws(8).normal(2), torch.arange(2).repeat_interleave(4)
    rollout = Rollout(x0, group, torch.arange(8), lab.policy.encode(["mode 3"] * 8), "behaviour")
    query = row.queries(rollout, torch.arange(8), draws(8, "query"))[0]
    before = lab.policy.forwards
    guided, unguided = (evaluate(one.policy, query, uses) for one in (lab, plain))
    assert lab.policy.forwards - before == 8 * (1 + 1 + 2)
    empty = replace(query, cond=plain.policy.encode([""] * 8))
    nothing = evaluate(plain.policy, empty, uses).v_of["ref"]
    expected = nothing + 4.5 * (unguided.v_of["ref"] - nothing)
    torch.testing.assert_close(guided.v_of["ref"], expected)
    assert not torch.allclose(guided.v_of["ref"], unguided.v_of["ref"], atol=1e-2)
    assert torch.equal(guided.v, unguided.v)
    assert torch.equal(guided.log_prob_of["old"], unguided.log_prob_of["old"])


def test_the_reference_may_be_the_base(part: Make) -> None:
    """The release's use_old_for_loss = false."""
    assert part("objective", "crd", role="ref").uses == {"log_prob:ref"}


def converged(beta: float) -> tuple[Blobs, Blobs, Callable[[Rollout], Tensor]]:
    """Theta after CRD from a fixed old, with A linear in x0 and another constant for each prompt.

    Scores are averaged over 256 draws: what they vary by is a penalty of its own, beta^2 var / 256.
    """
    theta = Blobs(2)
    theta.mean.data[1] = torch.tensor([1.0, -0.5])
    old = theta.copy()

    def reward(rollout: Rollout) -> Tensor:
        x = rollout.x0 - old.mean[rollout.group]
        return x[:, 0] + 0.5 * x[:, 1] + 1.5 * rollout.group

    rollout = old.sample(32, 0)
    fb = Feedback(reward(rollout), reward(rollout), rollout.group)
    assert float(fb.advantage.abs().max()) < 5  # nothing saturates
    query = queries(ELBO(ODE, Stratified(256), Likelihood()), rollout, 0, 256)[0]
    solver = torch.optim.LBFGS(theta.parameters(), max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = mean_loss(CRD(beta), None, query, theta, {"old": old}, fb)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    solver.step(closure)  # type: ignore[no-untyped-call]
    return theta, old, reward


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_the_log_ratio_converges_to_the_reward_over_beta(beta: float) -> None:
    """Slope 1/beta per prompt, in nats per dimension, by the oracle; the offset is the prompt's own.

    The weight (1 - t)/t over all times is the one whose mean is the log-likelihood.
    """
    theta, old, reward = converged(beta)
    fresh, oracle = old.sample(64, 1), Exact(20, Axes())
    scores = [
        oracle.log_prob(blobs.velocity, fresh.x0, fresh.cond, draws(128)).detach() for blobs in (theta, old)
    ]
    log_ratio, q = scores[0] - scores[1], reward(fresh) / 10 + 0.5
    offsets = []
    for prompt in (0, 1):
        mine = fresh.group == prompt
        centred = q[mine] - q[mine].mean()
        slope = float((centred * log_ratio[mine]).sum() / centred.square().sum())
        assert slope == pytest.approx(1 / beta, rel=0.05)
        rest = log_ratio[mine] - q[mine] / beta
        assert float(rest.std()) < 0.1 * float(log_ratio[mine].std())
        offsets.append(float(rest.mean()))
    assert offsets[0] - offsets[1] == pytest.approx(0.15 / beta, rel=0.1)  # the constants, over 10 beta


def quarters(anchor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Reward, spread and KL to the base, each averaged over quarters of 120 iterations; old follows theta."""
    theta = Blobs(2)
    theta.mean.data[1] = torch.tensor([1.0, -0.5])
    base, old = theta.copy(), theta.copy()
    targets = torch.tensor([[1.5, 0.0], [1.0, 1.0]]).double()
    estimator = ELBO(ODE, Permuted(0.99), AdaptiveVelocity(), tie_times="group")
    penalty = Girsanov(anchor) if anchor else None
    optimizer = torch.optim.SGD(theta.parameters(), lr=0.3)
    seen = []
    for iteration in range(120):
        rollout = theta.sample(24, iteration)
        reward = -(rollout.x0 - targets[rollout.group]).norm(dim=1)
        fb = Feedback(reward, ZScoreGroup()(reward, rollout.group), rollout.group)
        optimizer.zero_grad()
        asked = queries(estimator, rollout, iteration)
        for query in asked:
            loss = mean_loss(CRD(1.0), penalty, query, theta, {"old": old, "ref": base}, fb)
            (loss / len(asked)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for slow, fast in zip(old.parameters(), theta.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.75)
        seen.append([float(reward.mean()), float(theta.log_std.detach().exp().mean()), theta.kl(base)])
    reward, spread, kl = torch.tensor(seen).view(4, 30, 3).mean(1).unbind(1)
    return reward, spread, kl


def test_without_an_anchor_the_tilt_piles_up_and_with_one_it_stops() -> None:
    """Each step tilts a moving old again: reward rises on, diversity falls on. An anchor ends it."""
    reward, spread, kl = quarters(0.0)
    assert (reward.diff() > 0.03).all() and (spread.diff() < -0.03).all() and (kl.diff() > 0.2).all()
    held_reward, held_spread, held_kl = quarters(1.0)
    assert held_kl[3] / held_kl[2] < 1.05 < 1.1 < kl[3] / kl[2]
    assert held_kl[3] < 0.3 * kl[3] and held_spread[3] > 2 * spread[3]
    assert held_reward[3] > held_reward[0] + 0.1
