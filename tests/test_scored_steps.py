"""What reads the Gaussian of a scored step: GRPO-Guard, Flow-DPPO and the transition KL."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import vectors
from hypothesis import assume, given
from hypothesis import strategies as st
from pieces import credit, draws, evaluation, gradient
from steps import stepped
from test_objectives import ROWS, exactly, feedback, off_policy, published
from torch import Tensor

from ablate.averaging import average
from ablate.estimators.weights import Uniform
from ablate.objectives.dppo import DPPO
from ablate.objectives.epg import EPG
from ablate.objectives.guard import Guard
from ablate.regularizers.girsanov import Girsanov
from ablate.regularizers.transition_kl import TransitionKL, Variance
from ablate.types import Query

BOUND = 5.0
seeds, numbers, distances = st.integers(0, 10**6), st.floats(-2, 2), st.floats(0, 1)


def published_step() -> Query:
    t, t_next = vectors.STEP_TIMES
    dt, s = t_next - t, 0.7 * math.sqrt(t / (1 - t))
    c2 = dt * (1 + s * s * (1 - t) / (2 * t))
    c = (1 + s * s * dt / (2 * t), c2, s * math.sqrt(-dt))
    return stepped(vectors.STEP_X, vectors.STEP_OLD, vectors.STEP_EPS, c, -dt)


def test_guard_dppo_and_mean_kl_published_step() -> None:
    query, of = published_step(), {"old": vectors.STEP_OLD, "ref": vectors.STEP_OLD}
    assert float(query.log_prob(vectors.STEP_OLD)) == pytest.approx(vectors.STEP_SCORES[0], abs=6e-9)
    assert float(query.log_prob(vectors.STEP_THETA)) == pytest.approx(vectors.STEP_SCORES[1], abs=6e-9)
    one = credit(torch.ones(1).double())
    guard, dppo, kl = Guard(0.5, reweight=False), DPPO(1e-5), TransitionKL(1.0)
    ratio = -guard(evaluation(query, vectors.STEP_THETA, of, guard), one).per_sample
    assert float(ratio) == pytest.approx(vectors.STEP_GUARD, abs=6e-9)
    gate = dppo(evaluation(query, vectors.STEP_THETA, of, dppo), one).metrics["divergence"]
    assert float(gate) == pytest.approx(vectors.STEP_DIVERGENCE, abs=6e-11)
    penalty = kl(evaluation(query, vectors.STEP_THETA, of, kl), one)
    assert float(penalty) == pytest.approx(vectors.STEP_MEAN_KL, abs=6e-12)
    true = TransitionKL(1.0, variance="step")(evaluation(query, vectors.STEP_THETA, of, kl), one)
    assert float(true) == pytest.approx(vectors.STEP_DIVERGENCE, abs=6e-11)


@pytest.mark.parametrize(("sign", "dropped"), [(1.0, 0.0), (-1.0, 1.0)])
def test_dppo_drops_the_published_step_if_it_was_bad(sign: float, dropped: float) -> None:
    """Its divergence is beyond the gate, its ratio below 1: only A < 0 would push it further."""
    query, objective, a = published_step(), DPPO(1e-5), exactly(sign)
    v = vectors.STEP_THETA.clone().requires_grad_()
    loss = objective(evaluation(query, v, {"old": vectors.STEP_OLD}, objective), credit(a))
    slope = torch.autograd.grad(loss.per_sample.sum(), v)[0]
    assert float(loss.metrics["drop_fraction"]) == dropped and bool(slope.any()) == (not dropped)
    kept = DPPO(1.0)
    free = kept(evaluation(query, v, {"old": vectors.STEP_OLD}, kept), credit(a)).per_sample
    assert float(free.detach()) == pytest.approx(-sign * math.exp(-0.00524862), abs=1e-8)


def test_dppo_keeps_a_step_whose_ratio_is_one() -> None:
    """It goes nowhere, however far the velocities are apart."""
    query, objective = replace(published_step(), log_prob=lambda v: 0 * v.mean(1)), DPPO(1e-5)
    ev = evaluation(query, vectors.STEP_OLD + 100, {"old": vectors.STEP_OLD}, objective)
    for sign in (1.0, -1.0):
        loss = objective(ev, credit(exactly(sign)))
        assert float(loss.metrics["drop_fraction"]) == 0 and float(loss.per_sample) == -sign


def test_dppo_survives_a_ratio_that_overflows() -> None:
    """Dropped rows have no gradient, not NaN."""
    query = published_step()
    query = replace(query, log_prob=lambda v: 1e6 * v.mean(1))
    v, objective = (vectors.STEP_OLD + 100).requires_grad_(), DPPO(1e-5)
    loss = objective(evaluation(query, v, {"old": vectors.STEP_OLD}, objective), credit(exactly(1.0)))
    assert torch.equal(torch.autograd.grad(loss.per_sample.sum(), v)[0], torch.zeros(1, 4).double())


def steps(seed: int, distance: float) -> tuple[Query, Tensor, dict[str, Tensor]]:
    """Eight scored steps, theta's velocity, and others'."""
    base, v, others = off_policy(seed, distance)
    noise = draws(ROWS, seed, "step").normal(3).double()
    return stepped(base.x_t, others["old"], noise, (0.9, -0.1, 0.4), 0.08), v, others


@given(seed=seeds, distance=distances)
def test_guards_exponent_is_linear_and_its_bias_the_divergence(seed: int, distance: float) -> None:
    """log r = c2 mean(eps (v - v_old)): the quadratic part of the log-ratio is exactly the bias."""
    query, v, others = steps(seed, distance)
    noise, objective = draws(ROWS, seed, "step").normal(3).double(), Guard(0.999, reweight=False)
    ratio = -objective(evaluation(query, v, others, objective), credit(torch.ones(ROWS).double())).per_sample
    exponent = -0.1 * (noise * (v - others["old"])).mean(1)
    assume(bool((exponent.exp() < 1.999).all()) and bool((exponent.exp() > 0.001).all()))
    torch.testing.assert_close(ratio, exponent.exp())
    fb = credit(torch.ones(ROWS).double())
    slope = (
        exponent.exp()[:, None] * 0.1 * noise / (3 * ROWS)
    )  # of -r, linear in v: the bias has a gradient too
    torch.testing.assert_close(gradient(objective, query, v, others, fb), slope)


def test_dppo_drops_what_is_far_and_going_further() -> None:
    """Neither alone, and each row by its own divergence and ratio."""
    query, v, others = steps(2, 0.5)
    kl = query.scored_step().transition.divergence(v, others["old"])
    objective, fb = DPPO(float(kl.median())), feedback(2, EPG())
    log_ratio = query.log_prob(v) - query.log_prob(others["old"])
    far, further = kl >= objective.gate, fb.advantage * log_ratio > 0
    assert len(set(zip(far.tolist(), further.tolist(), strict=True))) == 4
    loss = objective(evaluation(query, v, others, objective), fb)
    expected = torch.where(far & further, 0.0, -fb.advantage * log_ratio.exp())
    torch.testing.assert_close(loss.per_sample, expected)
    assert float(loss.metrics["drop_fraction"]) == pytest.approx(float((far & further).double().mean()))
    torch.testing.assert_close(loss.metrics["divergence"], kl.mean())


def test_guards_clip_holds_rows_and_its_bias_is_the_divergence() -> None:
    query, v, others = steps(2, 0.5)
    noise = draws(ROWS, 2, "step").normal(3).double()
    fb, objective = feedback(2, EPG()), Guard(1e-2)
    ratio = (-0.1 * (noise * (v - others["old"])).mean(1)).exp()
    held = (fb.advantage > 0) & (ratio > 1.01) | (fb.advantage < 0) & (ratio < 0.99)
    assert 0 < int(held.sum()) < ROWS
    loss = objective(evaluation(query, v, others, objective), fb)
    assert float(loss.metrics["clip_fraction"]) == pytest.approx(float(held.double().mean()))
    kl = query.scored_step().transition.divergence(v, others["old"])
    torch.testing.assert_close(loss.metrics["ratio_bias"], kl.mean())
    worse = torch.maximum(-fb.advantage * ratio, -fb.advantage * ratio.clamp(0.99, 1.01))
    torch.testing.assert_close(loss.per_sample, worse / 0.08)
    slope = gradient(objective, query, v, others, fb)
    assert torch.equal((slope == 0).all(1), held)


def test_guard_scales_each_row_by_its_own_std() -> None:
    """And where draws are averaged, by the mean of theirs."""
    query, v, others = steps(3, 0.5)
    step, x_next = query.scored_step(), query.scored_step().transition.mean(query.target)
    std = torch.linspace(0.2, 0.8, ROWS).double()[:, None]
    uneven = replace(step.transition, std=std)
    other = replace(query, log_prob=partial(uneven.log_prob, x_next), step=replace(step, transition=uneven))
    objective, one = Guard(0.999, reweight=False), credit(-torch.ones(ROWS).double())
    exponents = []
    for q, scale in ((query, torch.full((ROWS, 1), 0.4).double()), (other, std)):
        bias = q.scored_step().transition.divergence(v, others["old"])
        exponents.append((scale[:, 0], q.log_prob(v) - q.log_prob(others["old"]) + bias))
        found = objective(evaluation(q, v, others, objective), one).per_sample
        torch.testing.assert_close(found, (scale[:, 0] * exponents[-1][1]).exp())
    merged = average([query, other], 2)[0]
    twice = {role: torch.stack([x, x], 1) for role, x in others.items()}
    found = objective(evaluation(merged, torch.stack([v, v], 1), twice, objective), one).per_sample
    scale, log_ratio = (torch.stack(pair).mean(0) for pair in zip(*exponents, strict=True))
    torch.testing.assert_close(found, (scale * log_ratio).exp())


@given(seed=seeds)
def test_guard_on_policy_is_the_policy_gradient_times_std_over_length(seed: int) -> None:
    query, v, _ = steps(seed, 0.0)
    fb = feedback(seed, EPG())
    found = gradient(Guard(1e-6), query, v, {"old": v}, fb)
    plain = gradient(EPG(ratio=False), query, v, {}, fb)
    torch.testing.assert_close(found, plain * 0.4 / 0.08)
    bare = gradient(Guard(1e-6, reweight=False), query, v, {"old": v}, fb)
    torch.testing.assert_close(bare, plain * 0.4)


VARIANCES: dict[Variance, float] = {"rate": 2 * 0.4**2 / 0.08, "step": 2 * 0.4**2, "omitted": 1.0}


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("normal", [True, False])
@given(seed=seeds, distance=st.floats(0.1, 1))
def test_transition_kl_is_a_weighted_velocity_anchor(
    variance: Variance, normal: bool, seed: int, distance: float
) -> None:
    """c2^2 mean (v - v_ref)^2 over what is named, however the kernel scores its draws."""
    query, v, others = steps(seed, distance)
    step = query.scored_step()
    query = replace(query, step=replace(step, transition=replace(step.transition, normal=normal)))
    kl, anchor = TransitionKL(0.3, variance=variance), Girsanov(0.3)
    nobody = credit(torch.zeros(ROWS).double())
    found = kl(evaluation(query, v, others, kl), nobody)
    expected = anchor(evaluation(query, v, others, anchor), nobody) * 0.1**2 / VARIANCES[variance]
    torch.testing.assert_close(found, expected)


def test_an_unknown_variance_is_refused() -> None:
    with pytest.raises(ValueError, match="regularizer.variance = dt must be rate, step or omitted"):
        TransitionKL(1.0, variance="dt")  # type: ignore[arg-type]


def test_averaged_draws_keep_their_steps() -> None:
    """Divergence and length of a merged query are the means over its draws."""
    pair = [steps(seed, 0.5) for seed in (1, 2)]
    merged = average([query for query, *_ in pair], 2)[0].scored_step()
    v, old = (torch.stack([of(p) for p in pair], 1) for of in (lambda p: p[1], lambda p: p[2]["old"]))
    each = [q.scored_step().transition.divergence(v[:, s], old[:, s]) for s, (q, *_) in enumerate(pair)]
    torch.testing.assert_close(merged.transition.divergence(v, old), torch.stack(each).mean(0))
    torch.testing.assert_close(merged.length, torch.full((ROWS,), 0.08).double())


def test_steps_are_missed_by_name() -> None:
    objective = Guard(1e-6)
    ev = evaluation(published(Uniform()), vectors.THETA, vectors.VELOCITIES, objective)
    with pytest.raises(ValueError, match="choose estimator=trajectory"):
        objective(ev, credit(vectors.A))
