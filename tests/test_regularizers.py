"""Regularizers: published values, gradients by formula, and what they may read."""

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
from pieces import credit, evaluation, point

from ablate.averaging import average
from ablate.estimators.weights import Adaptive, Uniform
from ablate.protocols import Regularizer
from ablate.regularizers.girsanov import Girsanov
from ablate.regularizers.norm_hinge import NormHinge
from ablate.regularizers.path_kl import PathKL
from ablate.regularizers.ratio_kl import RatioKL, k1, k2, k3
from ablate.regularizers.reward_adaptive import RewardAdaptive, raw_reward, squashed_advantage
from ablate.regularizers.sum import Sum
from ablate.regularizers.transition_kl import TransitionKL
from ablate.types import Evaluation, Feedback, Query, ScoredStep, Transition

Make = Callable[..., Any]
STEP = ScoredStep(
    Transition(vectors.X0, *torch.tensor([[-0.1], [0.4]]).double()), torch.tensor([0.1, 0.2]).double()
)
QUERY: Query = replace(point(vectors.X0, vectors.EPS, vectors.T, Adaptive()), step=STEP)
VELOCITIES = vectors.VELOCITIES | {"ema": vectors.REF, "prox": vectors.OLD}
NOBODY = credit(torch.zeros(2).double())
numbers = st.floats(-3, 3)


def asked(regularizer: Regularizer, query: Query = QUERY) -> Evaluation:
    return evaluation(query, vectors.THETA, VELOCITIES, regularizer)


def test_girsanov_published_value() -> None:
    assert float(Girsanov(1.0)(asked(Girsanov(1.0)), NOBODY).mean()) == pytest.approx(vectors.GIRSANOV)
    assert float(Girsanov(1e-4)(asked(Girsanov(1.0)), NOBODY).mean()) == pytest.approx(8.375e-8)


def test_girsanov_gradient_is_twice_the_distance() -> None:
    v = vectors.THETA.clone().requires_grad_()
    penalty = Girsanov(0.5)(replace(asked(Girsanov(0.5)), v=v), NOBODY)
    slope = torch.autograd.grad(penalty.sum(), v)[0]
    torch.testing.assert_close(slope, 0.5 * 2 * (vectors.THETA - vectors.REF) / 4)


@pytest.mark.parametrize("penalty", [Girsanov(1.0), PathKL(1.0)])
def test_a_velocity_penalty_does_not_broadcast(penalty: Regularizer) -> None:
    ev = replace(asked(Girsanov(1.0)), v_of={"ref": vectors.REF[:, :1]})
    with pytest.raises(ValueError, match="must have one shape"):
        penalty(ev, NOBODY)


def test_the_path_kl_divides_by_twice_the_variance_of_the_sde() -> None:
    """std = .7 sqrt(t / (1 - min(t, .99))), row by row, value and gradient; at t = 1 it is 7."""
    distance = (vectors.THETA - vectors.REF).square().mean(1)
    for t in (vectors.T, torch.tensor([1.0, 0.995]).double()):
        std = torch.tensor([0.7 * math.sqrt(s / (1 - min(s, 0.99))) for s in t.tolist()]).double()
        v = vectors.THETA.clone().requires_grad_()
        ev = replace(asked(PathKL(0.3), replace(QUERY, t=t)), v=v)
        penalty = PathKL(0.3)(ev, NOBODY)
        torch.testing.assert_close(penalty, 0.3 * distance / (2 * std.square()))
        slope = torch.autograd.grad(penalty.sum(), v)[0]
        expected = 0.3 * 2 * (vectors.THETA - vectors.REF) / 4 / (2 * std.square())[:, None]
        torch.testing.assert_close(slope, expected)
    assert PathKL(0.3).noise_level * math.sqrt(1 / (1 - PathKL(0.3).cap)) == pytest.approx(7.0)


def test_the_path_kl_of_averaged_draws_is_their_mean() -> None:
    """Each draw is weighed by its own time."""
    queries = [point(vectors.X0, vectors.EPS, t, Uniform()) for t in (vectors.T, vectors.T / 2)]
    penalty = PathKL(0.3)
    twice = {role: v[:, None].expand(2, 2, 4) for role, v in VELOCITIES.items()}
    merged = evaluation(average(queries, 2)[0], twice["theta"], twice, penalty)
    each = [penalty(asked(penalty, query), NOBODY) for query in queries]
    torch.testing.assert_close(penalty(merged, NOBODY), torch.stack(each).mean(0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"noise_level": 0.0}, "noise_level = 0.0 must be positive; AWM uses 0.7"),
        ({"cap": 1.0}, r"cap = 1.0 must lie in \(0, 1\); AWM uses 0.99"),
        ({"cap": 0.0}, "cap = 0.0 must lie in"),
    ],
)
def test_a_path_kl_out_of_range_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PathKL(1.0, **fields)  # type: ignore[arg-type]


def test_ratio_kl_reads_the_estimators_scores() -> None:
    """k2 of published scores: (E_theta - E_ref)^2 / 2, and the same times exp(E_theta - E_old)."""
    theta, old, ref = vectors.ELBO["uniform"]
    query = point(vectors.X0, vectors.EPS, vectors.T, Uniform())
    plain, weighted = RatioKL(0.3, k2), RatioKL(0.3, k2, importance=True)
    expected = 0.3 * 0.5 * (theta - ref).square()
    torch.testing.assert_close(plain(asked(plain, query), NOBODY), expected, rtol=0, atol=1e-9)
    found = weighted(asked(weighted, query), NOBODY)
    torch.testing.assert_close(found, expected * (theta - old).exp(), rtol=0, atol=1e-9)


def by_scores(regularizer: Regularizer, d_ref: float, d_old: float) -> tuple[float, float]:
    """Penalty and slope in L(v), for given differences to ref and old."""
    score = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    ev = Evaluation(
        query=QUERY,
        v=vectors.THETA,
        log_prob=score,
        v_of={},
        log_prob_of={
            "ref": torch.tensor([-d_ref], dtype=torch.float64),
            "old": torch.tensor([-d_old], dtype=torch.float64),
        },
    )
    penalty = regularizer(ev, credit(torch.zeros(1).double()))
    slope = torch.autograd.grad(penalty.sum(), score)[0]
    return float(penalty.detach()), float(slope)


ESTIMATES = {
    k1: (lambda d: d, lambda d: 1.0),
    k2: (lambda d: d * d / 2, lambda d: d),
    k3: (lambda d: math.exp(d) - 1 - d, lambda d: math.exp(d) - 1),
}


@pytest.mark.parametrize("estimate", ESTIMATES)
@given(d=numbers, d_old=numbers)
def test_estimates_and_their_gradients(estimate: Any, d: float, d_old: float) -> None:
    """With importance the factor exp(L(v) - L(v_old)) is differentiated as well."""
    value, slope = (f(d) for f in ESTIMATES[estimate])
    assert by_scores(RatioKL(0.1, estimate), d, d_old) == pytest.approx((0.1 * value, 0.1 * slope), abs=1e-9)
    r = math.exp(d_old)
    weighted = by_scores(RatioKL(0.1, estimate, importance=True), d, d_old)
    assert weighted == pytest.approx((0.1 * r * value, 0.1 * r * (slope + value)), abs=1e-9)


@given(d=st.floats(-20, 20))
def test_k3_is_never_negative(d: float) -> None:
    assert float(k3(torch.tensor(d))) >= 0


def test_k3_does_not_cancel_near_zero() -> None:
    """exp(d) - 1 - d in fp32 would be 0 or negative here; the true value is d^2/2."""
    d = torch.tensor([1e-4, -1e-4])
    torch.testing.assert_close(k3(d), d.square() / 2, rtol=0.1, atol=0)


def test_a_regularizer_reads_what_it_declares(part: Make, each_regularizer: str) -> None:
    regularizer = part("regularizer", each_regularizer)
    ev = asked(regularizer)
    penalty = regularizer(ev, NOBODY)
    assert penalty.shape == (2,) and penalty.isfinite().all()
    for use in regularizer.uses:
        kind, _, role = use.partition(":")
        field = {"v": "v_of", "log_prob": "log_prob_of"}[kind]
        poorer = replace(ev, **{field: {r: x for r, x in vars(ev)[field].items() if r != role}})
        with pytest.raises(KeyError, match=role):
            regularizer(poorer, NOBODY)


def test_no_penalty_at_the_reference(part: Make, each_regularizer: str) -> None:
    """Where all roles agree the penalty is 0; its gradient too, but for k1, whose gradient is the score's."""
    regularizer = part("regularizer", each_regularizer)
    v = vectors.THETA.clone().requires_grad_()
    here = dict.fromkeys(VELOCITIES, vectors.THETA)
    penalty = regularizer(evaluation(QUERY, v, here, regularizer), NOBODY)
    torch.testing.assert_close(penalty.double(), torch.zeros(2).double(), rtol=0, atol=1e-12)
    if not penalty.requires_grad:
        assert not regularizer.uses  # nothing read, nothing to differentiate
        return
    slope = torch.autograd.grad(penalty.sum(), v)[0]
    if each_regularizer == "k1":
        score = torch.autograd.grad(QUERY.log_prob(v).sum(), v)[0]
        torch.testing.assert_close(slope, regularizer.kl_coef * score)
    else:
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_the_role_is_a_field(part: Make) -> None:
    assert part("regularizer", "girsanov", role="ema").uses == {"v:ema"}
    assert part("regularizer", "k3", role="teacher:ocr").uses == {"log_prob:teacher:ocr"}
    assert part("regularizer", "k1", importance=True).uses == {"log_prob:ref", "log_prob:old"}


@pytest.mark.parametrize("coefficient", [0.0, -1e-2, float("nan")])
def test_a_coefficient_that_is_not_positive_is_refused(coefficient: float) -> None:
    makers = (Girsanov, TransitionKL, PathKL, lambda c: RatioKL(c, k1))
    for make in makers:
        with pytest.raises(ValueError, match=r"kl_coef = .* must be positive; for none: regularizer=none"):
            make(coefficient)


def test_a_sum_adds_its_terms_and_reads_what_they_read() -> None:
    terms: dict[str, Regularizer] = {"a": Girsanov(0.3), "b": Girsanov(0.2, "old"), "c": RatioKL(0.1, k3)}
    whole = Sum(terms)
    assert whole.uses == {"v:ref", "v:old", "log_prob:ref"}
    each = torch.stack([term(asked(term), NOBODY) for term in terms.values()])
    torch.testing.assert_close(whole(asked(whole), NOBODY), each.sum(0))
    v = vectors.THETA.clone().requires_grad_()
    slope = torch.autograd.grad(Sum({"a": Girsanov(0.3)})(replace(asked(whole), v=v), NOBODY).sum(), v)[0]
    torch.testing.assert_close(slope, 0.3 * 2 * (vectors.THETA - vectors.REF) / 4)
    with pytest.raises(ValueError, match="terms is empty"):
        Sum({})


def test_terms_of_a_sum_are_set_by_name(part: Make) -> None:
    awm = part("regularizer", "awm")
    assert awm == Sum({"base": Girsanov(1e-3), "proximal": Girsanov(1.0, "prox")})


@pytest.mark.parametrize(("reward", "q"), [(-1.0, 0.0), (0.0, 0.0), (0.4, 0.4), (1.0, 1.0), (3.0, 1.0)])
def test_strength_by_raw_reward(reward: float, q: float) -> None:
    """lambda_i = 1e-4 + q (lambda - 1e-4), CRD's per-sample coefficient."""
    adaptive = RewardAdaptive(Girsanov(0.1), 1e-3, raw_reward)
    fb = Feedback(torch.full((2,), reward).double(), torch.zeros(2).double(), torch.zeros(2).long())
    plain = Girsanov(1.0)(asked(Girsanov(1.0)), fb)
    torch.testing.assert_close(adaptive(asked(adaptive), fb), (1e-4 + q * (0.1 - 1e-4)) * plain)
    assert adaptive.uses == {"v:ref"}


def test_strength_by_squashed_advantage_and_its_ends() -> None:
    """q = 1 is the plain anchor, q = 0 the coefficient 1e-4 (specification crd_tdmr1 2.11, test 4)."""
    adaptive = RewardAdaptive(Girsanov(0.1), 1e-3, squashed_advantage)
    plain = Girsanov(1.0)(asked(Girsanov(1.0)), NOBODY)
    for advantage, coefficient in ((5.0, 0.1), (99.0, 0.1), (-5.0, 1e-4), (0.0, 0.05005)):
        fb = Feedback(torch.zeros(2), torch.full((2,), advantage).double(), torch.zeros(2).long())
        torch.testing.assert_close(adaptive(asked(adaptive), fb), coefficient * plain)
    with pytest.raises(ValueError, match=r"floor = 1.5 must lie in \[0, 1\]"):
        RewardAdaptive(Girsanov(0.1), 1.5, raw_reward)


def test_a_transition_kl_needs_a_step() -> None:
    bare = replace(QUERY, step=None)
    with pytest.raises(ValueError, match="choose estimator=trajectory"):
        TransitionKL(1.0)(asked(TransitionKL(1.0), bare), NOBODY)


def test_terms_are_changed_removed_and_added_by_override(parts: Make) -> None:
    added = "{_target_: ablate.regularizers.girsanov.Girsanov, kl_coef: 2.0, role: old}"
    found = parts(
        "regularizer=sum",
        "regularizer.terms.base.kl_coef=0.5",
        "~regularizer.terms.recent",
        f"+regularizer.terms.near={added}",
    )
    assert found.regularizer == Sum({"base": Girsanov(0.5), "near": Girsanov(2.0, "old")})


@given(length=st.floats(0.1, 3), slack=st.floats(0, 0.5), seed=st.integers(0, 10**6))
def test_norm_hinge(length: float, slack: float, seed: int) -> None:
    """Silent up to (1 + slack) of the role's norm, then its slope is along v and of one size."""
    ref = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed)).double()
    turned = ref.roll(1, 1)
    v = (length * turned).requires_grad_()
    hinge = NormHinge(0.3, slack=slack)
    penalty = hinge(evaluation(QUERY, v, {"ref": ref}, hinge), NOBODY)
    norm = ref.square().mean(1).sqrt()
    excess = max(0.0, length - 1 - slack)
    torch.testing.assert_close(penalty, 0.3 * excess * norm)
    slope = torch.autograd.grad(penalty.sum(), v)[0]
    beyond = length > 1 + slack
    torch.testing.assert_close(slope, beyond * 0.3 * turned / norm[:, None] / 4)
    at_zero = torch.zeros(2, 4).double().requires_grad_()
    penalty = hinge(evaluation(QUERY, at_zero, {"ref": ref}, hinge), NOBODY)
    assert torch.autograd.grad(penalty.sum(), at_zero)[0].isfinite().all()


def test_norm_hinge_refuses() -> None:
    with pytest.raises(ValueError, match="kl_coef = 0.0 must be positive"):
        NormHinge(0.0)
    with pytest.raises(ValueError, match="slack = -0.1 must be 0 or more"):
        NormHinge(0.1, slack=-0.1)
