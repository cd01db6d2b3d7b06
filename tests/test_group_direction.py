"""Group directions: each published point against its own formula, and where the family degenerates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pieces import credit, draws, evaluation, gradient, point
from test_objectives import feedback, off_policy
from torch import Tensor

from ablate.estimators.weights import Adaptive
from ablate.objectives.group_direction import GroupDirection
from ablate.objectives.sibling_weights import (
    EffectiveShare,
    Equal,
    Kernel,
    Median,
    SelfWeight,
    effective_number,
)
from ablate.objectives.velocity_matching import VelocityMatching
from ablate.types import Feedback, Loss, Query, Siblings

Make = Callable[..., Any]
ROWS, D = 6, 3
seeds, gains = st.integers(0, 10**6), st.floats(0.1, 3)
WEIGHTS = (Equal(), Kernel(1.0), Kernel(0.7, relative=False), Median(), SelfWeight(0.4), EffectiveShare(0.5))


def family(size: int, seed: int = 0) -> tuple[Query, Siblings, Tensor]:
    """A query of rows that are the first of their siblings, and v_old."""
    noise = draws(ROWS, "family", seed)
    x0, a = noise.of("x0").normal(size, D).double(), noise.of("a").normal(size).double()
    t = (0.3 + 0.6 * noise.of("t").uniform()).double()
    query = point(x0[:, 0], noise.of("eps").normal(D).double(), t, Adaptive())
    return query, Siblings(x0, a), noise.of("old").normal(D).double()


def told(siblings: Siblings) -> Feedback:
    return replace(credit(siblings.advantage[:, 0]), siblings=siblings)


def shift(objective: GroupDirection, query: Query, siblings: Siblings, old: Tensor) -> Tensor:
    """``v_old`` less the velocity where the loss is least, for quadratic old."""
    return gradient(objective, query, old, {"old": old}, told(siblings)) * ROWS * D / 2


def loss_of(objective: GroupDirection, query: Query, v: Tensor, old: Tensor, siblings: Siblings) -> Loss:
    return objective(evaluation(query, v, {"old": old}, objective), told(siblings))


def posterior(query: Query, x0: Tensor, x_t: Tensor) -> Tensor:
    t = query.t[:, None]
    square = (x_t[:, None] - (1 - t)[..., None] * x0).square().sum(2)
    return (-square / (2 * t.square())).softmax(1)


@given(seed=seeds, size=st.integers(2, 6))
def test_kernel_direction_is_the_gradient_of_the_smoothed_advantage(seed: int, size: int) -> None:
    """``grad sum_j w_j(x_t) A_j = (1 - t)/t^2 C = -(1 - t)/t sum_j w_j (A_j - mean) (x_t - x0_j)/t``."""
    query, siblings, old = family(size, seed)
    x_t, t = query.x_t.clone().requires_grad_(), query.t[:, None]
    smoothed = (posterior(query, siblings.x0, x_t) * siblings.advantage).sum(1)
    expected = torch.autograd.grad(smoothed.sum(), x_t)[0]
    c = t * shift(GroupDirection(Kernel(1.0), 1.0), query, siblings, old)
    torch.testing.assert_close((1 - t) / t.square() * c, expected, rtol=1e-8, atol=1e-10)
    velocities = (query.x_t[:, None] - siblings.x0) / t[:, None]
    w = posterior(query, siblings.x0, query.x_t)
    centred = w * (siblings.advantage - smoothed.detach()[:, None])
    by_velocity = -(1 - t) / t * (centred[..., None] * velocities).sum(1)
    torch.testing.assert_close(by_velocity, expected, rtol=1e-8, atol=1e-10)


@given(seed=seeds, size=st.integers(2, 6), gain=gains)
def test_a_wide_kernel_is_the_covariance(seed: int, size: int, gain: float) -> None:
    """So are equal weights, and share 1/G; of a pair it is half the difference of each."""
    query, siblings, old = family(size, seed)
    x0, a = siblings.x0, siblings.advantage
    covariance = ((a - a.mean(1, keepdim=True))[..., None] * (x0 - x0.mean(1, keepdim=True))).mean(1)
    for weights in (Equal(), Kernel(1e7), SelfWeight(1 / size)):
        found = shift(GroupDirection(weights, gain), query, siblings, old)
        torch.testing.assert_close(found, gain * covariance / query.t[:, None], rtol=1e-6, atol=1e-8)
    if size == 2:
        halves = [(z[:, 0] - z[:, 1]) / 2 for z in (a, x0)]
        torch.testing.assert_close(covariance, halves[0][:, None] * halves[1])


@pytest.mark.parametrize("weights", WEIGHTS)
@given(seed=seeds, gain=gains)
def test_pairwise_regression_by_its_moments(weights: Any, seed: int, gain: float) -> None:
    """PWVM: gradient of ``mean sum_j w_j A_j (v - (x_t - x0_j)/t)^2``; v_old is no part of it."""
    query, siblings, old = family(5, seed)
    t, v = query.t[:, None, None], (old + 0.3).requires_grad_()
    square = (query.x_t[:, None] - (1 - t) * siblings.x0).square().sum(2)
    pull = weights(square, query.t) * siblings.advantage
    error = (v[:, None] - (query.x_t[:, None] - siblings.x0) / t).square().mean(2)
    expected = torch.autograd.grad((gain * pull * error).sum(1).mean(), v)[0]
    pwvm = GroupDirection(weights, gain, "none", quadratic="signed")
    assert pwvm.uses == frozenset()
    found = gradient(pwvm, query, v, {}, told(siblings))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    around_old = gradient(replace(pwvm, centre="old"), query, v, {"old": old}, told(siblings))
    torch.testing.assert_close(around_old, expected, rtol=1e-8, atol=1e-10)
    slopes = [gradient(replace(pwvm, centre="mean"), query, at, {}, told(siblings)) for at in (v, 9 * v)]
    torch.testing.assert_close(*slopes)  # centred on the weighted mean nothing bends


@given(seed=seeds, distance=st.floats(0, 1), gain=gains)
def test_the_sample_alone_is_flow_awr(seed: int, distance: float, gain: float) -> None:
    """Self weight 1, centred on v_old: from this end to the covariance runs one family."""
    query, v, others = off_policy(seed, distance)
    objective = GroupDirection(SelfWeight(1.0), gain, "old")
    fb = feedback(seed, objective)
    expected = gradient(VelocityMatching("old", gain), query, v, others, fb)
    torch.testing.assert_close(gradient(objective, query, v, others, fb), expected)


@given(seed=seeds, gain=gains)
def test_a_normalised_direction_has_one_size(seed: int, gain: float) -> None:
    """DiffusionART: of credit only its order and shape count, and every state of a prompt gets one step."""
    query, siblings, old = family(5, seed)
    unit = GroupDirection(Equal(), gain, normalise="unit")
    found = shift(unit, query, siblings, old) * query.t[:, None]
    torch.testing.assert_close(
        found.square().mean(1).sqrt(), torch.full((ROWS,), gain).double(), rtol=1e-3, atol=0
    )
    louder = replace(siblings, advantage=7 * siblings.advantage)
    again = shift(unit, query, louder, old) * query.t[:, None]
    torch.testing.assert_close(again, found, rtol=1e-3, atol=1e-6)


@given(seed=seeds)
def test_finite_difference_step(part: Make, seed: int) -> None:
    """FDFO: of a pair the shift of the velocity is ``dR dx / (mean dx^2 + 1e-6)``, at any time."""
    query, siblings, old = family(2, seed)
    dr, dx = ((z[:, 0] - z[:, 1]) / 2 for z in (siblings.advantage, siblings.x0))
    expected = dr[:, None] * dx / (dx.square().mean(1, keepdim=True) + 1e-6)
    torch.testing.assert_close(shift(part("objective", "fdfo"), query, siblings, old), expected)


def white(t: float, size: int = 24) -> tuple[Tensor, Tensor]:
    """Squared distances of a state to independent unit-variance endpoints, D = 65,536, its own first."""
    x0 = draws(3, "white").normal(size, 16, 64, 64)
    x_t = (1 - t) * x0[:, 0] + t * draws(3, "white", "eps").normal(16, 64, 64)
    square = torch.stack([(x_t - (1 - t) * one).square().flatten(1).sum(1) for one in x0.unbind(1)], 1)
    return square, torch.full((3,), t)


def test_natural_bandwidths_degenerate_in_high_dimension() -> None:
    """The posterior sees one endpoint, the median rule all; a wanted number of them can be had."""
    at = white(0.9)
    ess = {str(w): float(effective_number(w(*at)).mean()) for w in (Kernel(1.0), Median(), Median(1.0, True))}
    assert ess[str(Kernel(1.0))] < 1.01 and ess[str(Median())] > 23.5
    assert ess[str(Median(1.0, True))] == pytest.approx(23.1, abs=0.05)
    assert float(effective_number(Median(0.5, True)(*at)).mean()) == pytest.approx(18.7, abs=0.05)
    assert float(effective_number(Kernel(1.0)(*white(0.96))).mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(effective_number(Kernel(1.0)(*white(0.99))).mean()) > 1.5
    for share in (0.1, 0.5, 0.9):
        w = EffectiveShare(share)(*at)
        torch.testing.assert_close(effective_number(w), torch.full((3,), 24 * share), rtol=1e-3, atol=0)
        assert (w.argmax(1) == 0).all()


def test_lost_signal_is_logged() -> None:
    """signal is 1 for the covariance and falls to 0 as the sample's own weight rises to 1."""
    query, siblings, old = family(5)
    seen = []
    for share in (0.2, 0.6, 0.9, 1.0):
        loss = loss_of(GroupDirection(SelfWeight(share), 1.0), query, old, old, siblings)
        assert float(loss.metrics["self_weight"]) == pytest.approx(share)
        others = (1 - share) ** 2 / 4
        assert float(loss.metrics["effective_siblings"]) == pytest.approx(1 / (share**2 + others))
        seen.append(float(loss.metrics["signal"]))
    assert seen[0] == pytest.approx(1) and seen == sorted(seen, reverse=True) and seen[-1] < 1e-12
    silent = loss_of(GroupDirection(SelfWeight(1.0), 1.0), query, old, old, siblings)
    torch.testing.assert_close(silent.per_sample, torch.zeros(ROWS).double(), rtol=0, atol=1e-24)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_are_a_distribution(weights: Any) -> None:
    """Also where all distances are equal, or 0, and whatever is added to or multiplies them."""
    square = draws(ROWS, "square").uniform(5).double() + 0.1
    t = torch.full((ROWS,), 0.4).double()
    for case in (square, torch.ones_like(square), torch.zeros_like(square), 1e8 * square):
        w = weights(case, t)
        assert (w >= 0).all() and w.isfinite().all()
        torch.testing.assert_close(w.sum(1), torch.ones(ROWS).double())
    order = torch.tensor([0, 3, 1, 4, 2])  # siblings have no order
    torch.testing.assert_close(weights(square[:, order], t), weights(square, t)[:, order])


def test_the_median_sibling_weighs_half_of_one_at_no_distance() -> None:
    square = torch.tensor([[0.0, 1.0, 3.0, 5.0]]).double()
    w = Median()(square, torch.ones(1))
    assert float(w[0, 1] / w[0, 0]) == pytest.approx(0.5)  # the lower median
    assert float(Median(2.0)(square, torch.ones(1))[0, 1] / Median(2.0)(square, torch.ones(1))[0, 0]) == (
        pytest.approx(math.sqrt(0.5))
    )
    moved = Median(1.0, True)(square + 7.0, torch.ones(1))
    torch.testing.assert_close(moved, w)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupDirection(Equal(), 0.0), "objective.gain = 0.0 must be positive"),
        (
            lambda: GroupDirection(Equal(), 1.0, "self"),
            "objective.centre = self must be one of mean, old, none",
        ),  # type: ignore[arg-type]
        (lambda: GroupDirection(Equal(), 1.0, normalise="l1"), "normalise = l1 must be one of none, unit"),  # type: ignore[arg-type]
        (lambda: GroupDirection(Equal(), 1.0, quadratic="ref"), "quadratic = ref must be one of old, signed"),  # type: ignore[arg-type]
        (lambda: Kernel(0.0), "weights.bandwidth = 0.0 must be positive"),
        (lambda: Median(-1.0), "weights.factor = -1.0 must be positive"),
        (lambda: SelfWeight(1.1), r"weights.share = 1.1 must lie in \[0, 1\]"),
        (lambda: EffectiveShare(0.0), r"weights.share = 0.0 must lie in \(0, 1\]"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
