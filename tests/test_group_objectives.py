"""Objectives over groups, and the floors: CRD, DGPO, reward-weighted regression, best-of-N."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import vectors
from hypothesis import assume, given
from hypothesis import strategies as st
from pieces import credit, evaluation, gradient, point
from test_objectives import ROWS, exactly, feedback, off_policy, published
from torch import Tensor

from ablate.estimators.weights import Uniform
from ablate.groups import group_mean
from ablate.objectives.best_of_n import BestOfN
from ablate.objectives.crd import CRD, bce
from ablate.objectives.dgpo import DGPO
from ablate.objectives.epg import EPG
from ablate.objectives.rwr import RWR
from ablate.types import Feedback, Siblings

BOUND = 5.0
seeds, numbers, distances = st.integers(0, 10**6), st.floats(-2, 2), st.floats(0, 1)


@given(seed=seeds, distance=distances, shift=numbers)
def test_crd_does_not_see_what_is_common_to_a_group(seed: int, distance: float, shift: float) -> None:
    """Neither a constant in the group's advantages nor one in its scores (where nothing saturates)."""
    query, v, others = off_policy(seed, distance, Uniform())
    fb = feedback(seed, CRD(1.0))
    moved = replace(fb, advantage=fb.advantage + shift * fb.group)
    assume(float(fb.advantage.abs().max()) < 3)
    for objective in (CRD(0.7), CRD(0.7, bce)):
        ev = evaluation(query, v, others, objective)
        drifted = replace(ev, log_prob=ev.log_prob + shift * fb.group)
        expected = objective(ev, fb).per_sample
        torch.testing.assert_close(objective(ev, moved).per_sample, expected)
        torch.testing.assert_close(objective(drifted, fb).per_sample, expected)


@given(seed=seeds, distance=distances)
def test_crd_is_half_the_mean_of_all_pairs(seed: int, distance: float) -> None:
    query, v, others = off_policy(seed, distance, Uniform())
    objective = CRD(0.7)
    fb = feedback(seed, objective)
    ev = evaluation(query, v, others, objective)
    gap = (0.7 * (ev.log_prob - ev.log_prob_of["old"]) - fb.advantage.clamp(-5, 5) / 10).view(2, 4)
    pairs = 0.5 * (gap[:, :, None] - gap[:, None]).square().mean((1, 2))
    torch.testing.assert_close(objective(ev, fb).per_sample.view(2, 4).mean(1), BOUND / 0.7 * pairs)


@given(seed=seeds, distance=distances, temperature=st.floats(0.1, 3))
def test_crd_is_the_policy_gradient_of_a_self_limiting_advantage(
    seed: int, distance: float, temperature: float
) -> None:
    """A - 2 bound beta (d - mean d); at v = v_old it is A."""
    query, v, others = off_policy(seed, distance, Uniform())
    fb = feedback(seed, CRD(1.0))
    assume(float(fb.advantage.abs().max()) < BOUND)
    d = query.log_prob(v) - query.log_prob(others["old"])
    limited = fb.advantage - 2 * BOUND * temperature * (d - group_mean(d, fb.group))
    expected = gradient(EPG(ratio=False), query, v, {}, replace(fb, advantage=limited))
    torch.testing.assert_close(gradient(CRD(temperature), query, v, others, fb), expected)


@given(seed=seeds)
def test_crd_weights_centre_on_the_good_and_on_the_bad(seed: int) -> None:
    """Cold weights centre q on the best and on the worst of the group; warm ones are uniform."""
    query, v, _ = off_policy(seed, 0.0)
    fb = feedback(seed, CRD(1.0))
    ranked = fb.advantage.view(2, 4).sort(1).values
    assume(float((ranked[:, 1:] - ranked[:, :-1]).min()) > 0.05 and float(fb.advantage.abs().max()) < BOUND)

    def loss(weight_temperature: float | None) -> Tensor:
        objective = CRD(1.0, weight_temperature=weight_temperature)
        return objective(evaluation(query, v, {"old": v}, objective), fb).per_sample.detach()

    best, worst = (ranked[:, at].repeat_interleave(4) for at in (-1, 0))
    gaps = [((fb.advantage - end) / 10).square() for end in (best, worst)]
    torch.testing.assert_close(loss(1e-4), BOUND * 0.5 * (gaps[0] + gaps[1]))
    torch.testing.assert_close(loss(1e6), loss(None), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("weight_temperature", [None, 0.3])
def test_crd_centres_without_a_gradient(weight_temperature: float | None) -> None:
    """No row's loss pulls on another row's score: with weights this is not the same as with a gradient."""
    query, v, others = off_policy(1, 0.5)
    objective = CRD(0.7, weight_temperature=weight_temperature)
    fb, ev = feedback(1, objective), evaluation(query, v, others, objective)
    jacobian = torch.autograd.functional.jacobian(
        lambda score: objective(replace(ev, log_prob=score), fb).per_sample, ev.log_prob
    )
    assert torch.equal(jacobian, jacobian.diagonal().diag()) and bool((jacobian.diagonal() != 0).all())


@given(seed=seeds, distance=distances, weight_temperature=st.floats(0.05, 2))
def test_crd_with_weights_written_out(seed: int, distance: float, weight_temperature: float) -> None:
    """Both log-ratio and q less their weighted means, by a softmax of q in each group, and of -q."""
    query, v, others = off_policy(seed, distance, Uniform())
    objective = CRD(0.7, weight_temperature=weight_temperature)
    fb, ev = feedback(seed, objective), evaluation(query, v, others, objective)
    d, q = (ev.log_prob - ev.log_prob_of["old"]).view(2, 4), fb.advantage.view(2, 4).clamp(-5, 5) / 10 + 0.5
    errors = []
    for sign in (1, -1):
        w = (sign * q / weight_temperature).softmax(1)
        gap = [x - (w * x).sum(1, keepdim=True) for x in (d, q)]
        errors.append((0.7 * gap[0] - gap[1]).square().flatten())
    torch.testing.assert_close(objective(ev, fb).per_sample, BOUND / 0.7 * (errors[0] + errors[1]) / 2)


@given(seed=seeds, distance=distances)
def test_crd_over_the_micro_batch_is_crd_of_one_group(seed: int, distance: float) -> None:
    query, v, others = off_policy(seed, distance)
    fb = feedback(seed, CRD(1.0))
    release, paper = CRD(1.0, center_scope="microbatch"), CRD(1.0)
    ev = evaluation(query, v, others, paper)
    whole = replace(fb, group=torch.zeros(ROWS).long())
    torch.testing.assert_close(release(ev, fb).per_sample, paper(ev, whole).per_sample)


@given(seed=seeds, distance=distances, sharpness=st.floats(0.1, 200))
def test_dgpo_is_the_slope_of_a_softplus(seed: int, distance: float, sharpness: float) -> None:
    """G/sharpness times the gradient of softplus(-sharpness mean_g A (L - L_ref)), with nothing held."""
    query, v, others = off_policy(seed, distance, Uniform())
    objective = DGPO(sharpness, 0.999)
    fb = feedback(seed, objective)
    assume(float((query.log_prob(v) - query.log_prob(others["old"])).max()) < 0.69)
    at = v.clone().requires_grad_()
    met = fb.advantage * (query.log_prob(at) - query.log_prob(others["ref"]))
    preference = torch.nn.functional.softplus(-sharpness * met.view(2, 4).mean(1)).sum()
    expected = torch.autograd.grad(preference, at)[0] * 4 / sharpness / ROWS
    torch.testing.assert_close(gradient(objective, query, v, others, fb), expected, rtol=1e-6, atol=1e-10)


@given(log_ratio=numbers, advantage=numbers, clip=st.floats(1e-3, 0.9))
def test_dgpo_holds_what_has_left_the_interval(log_ratio: float, advantage: float, clip: float) -> None:
    score = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    objective, zero = DGPO(1.0, clip), torch.zeros(1).double()
    ev = evaluation(published(Uniform()), vectors.THETA, {}, EPG(ratio=False))
    ev = replace(ev, log_prob=score, log_prob_of={"old": zero, "ref": score.detach()})
    loss = objective(ev, credit(exactly(advantage)))
    slope = torch.autograd.grad(loss.per_sample.sum(), score, allow_unused=True)[0]
    r = math.exp(log_ratio)
    held = (advantage > 0 and r > 1 + clip) or (advantage <= 0 and r < 1 - clip)
    assert float(loss.metrics["clip_fraction"]) == float(held)
    assert float(slope) == pytest.approx(0.0 if held else -0.5 * advantage)


@given(seed=seeds, temperature=st.floats(0.2, 5), most=st.floats(0.1, 5))
def test_rwr_weighs_by_an_exponential_and_never_repels(seed: int, temperature: float, most: float) -> None:
    query, v, _ = off_policy(seed, 0.0)
    fb = feedback(seed, RWR(1.0))
    weight = (fb.advantage / temperature).exp().clamp(max=most)
    expected = gradient(EPG(ratio=False), query, v, {}, replace(fb, advantage=weight))
    torch.testing.assert_close(gradient(RWR(temperature, most), query, v, {}, fb), expected)


@given(seed=seeds)
def test_rwr_is_imitation_plus_a_policy_gradient_when_hot(seed: int) -> None:
    query, v, _ = off_policy(seed, 0.0)
    fb = feedback(seed, RWR(1.0))
    hot = 1e5
    excess = gradient(RWR(hot), query, v, {}, fb) - gradient(RWR(1e30), query, v, {}, fb)
    policy = gradient(EPG(ratio=False), query, v, {}, fb)
    torch.testing.assert_close(hot * excess, policy, rtol=1e-3, atol=1e-5)


def chosen(advantage: Mapping[int, list[float]]) -> tuple[list[float], float]:
    """Weights that best-of-N gives to groups of advantages, and the share of samples it imitates."""
    a = torch.tensor([x for group in advantage.values() for x in group], dtype=torch.float64)
    group = torch.arange(len(advantage)).repeat_interleave(len(a) // len(advantage))
    siblings = Siblings(torch.zeros(len(a), 1, 1), a.view(len(advantage), -1)[group])
    query = replace(point(a[:, None], a[:, None], a, Uniform()), log_prob=lambda v: -v[:, 0])
    fb = Feedback(a, a, group, siblings)
    v = torch.full((len(a), 1), 3.0, dtype=torch.float64, requires_grad=True)
    loss = BestOfN()(evaluation(query, v, {}, BestOfN()), fb)
    weights = torch.autograd.grad(loss.per_sample.sum(), v)[0][:, 0]
    assert torch.equal(loss.per_sample, 3 * weights)
    return weights.tolist(), float(loss.metrics["chosen"])


def test_best_of_n_takes_the_best_shares_it_and_abstains() -> None:
    weights, share = chosen({0: [0.1, 0.9, -1.0], 1: [2.0, 2.0, -4.0], 2: [0.0, 0.0, 0.0]})
    assert weights == [0, 1, 0, 0.5, 0.5, 0, 0, 0, 0]
    assert share == pytest.approx(3 / 9)
