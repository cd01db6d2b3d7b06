"""The estimators of RAM, AWM, DGPO and CRD: times by their indices and densities, ties, CRD's weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import vectors
from pieces import draws

from ablate.contract.errors import UserError
from ablate.estimators.times import FirstTime, Permuted, PowerLaw, StratifiedSteps
from ablate.estimators.weights import Adaptive, AdaptiveVelocity
from ablate.samplers.grids import Double

GRID = Double(3.0)(10)
AWM_GRID = Double(3.0)(14)
ROWS = 3000


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("low", [0.0, 0.4])
def test_power_law_has_its_moments(exponent: float, low: float) -> None:
    """E t^m = (a + 1)/(a + 1 + m) (1 - low^(a + 1 + m))/(1 - low^(a + 1)); draws of a row are independent."""
    t, k = PowerLaw(8, exponent, low)(GRID, draws(ROWS))
    assert t.shape == (ROWS, 8) and not k.any()
    assert (t > 0).all() and (t >= low - 1e-6).all() and (t <= 1).all()
    power = exponent + 1
    for m in (1, 2):
        exact = power / (power + m) * (1 - low ** (power + m)) / (1 - low**power)
        error = float(t.pow(m).std()) / t.numel() ** 0.5
        assert abs(float(t.pow(m).mean()) - exact) < 4 * error
    centred = t - t.mean()
    correlation = (centred[:, 0] * centred[:, 1]).mean() / t.var()
    assert abs(float(correlation)) < 4 / ROWS**0.5


def test_ram_draws_the_square_root_of_a_uniform() -> None:
    """p(t) = 2 t has the distribution function t^2; the largest gap to it is Kolmogorov's statistic."""
    t = PowerLaw(8, 1.0)(GRID, draws(ROWS))[0].flatten().sort().values.double()
    ideal = torch.linspace(0, 1, len(t) + 1, dtype=torch.float64)[1:]
    assert float((t.square() - ideal).abs().max()) < 1.95 / len(t) ** 0.5  # p = 0.001


def test_dgpo_draws_without_replacement_from_the_noisy_end() -> None:
    """DGPO: index <= 6 of ten steps is t >= .602 on this grid, index <= 4 is t >= .790."""
    for among, least in ((7, 0.60215), (5, 0.79037)):
        t, k = Permuted(0.4, among / 10)(GRID, draws(ROWS))
        assert t.shape == (ROWS, 4) and all(len(set(row)) == 4 for row in k.tolist())
        assert torch.equal(t, GRID[k].float())
        assert float(t.min()) == pytest.approx(least, abs=1e-5) and int(k.max()) == among - 1
        counts = torch.bincount(k.flatten()).double() / ROWS
        assert counts.tolist() == pytest.approx([4 / among] * among, abs=4 * 0.5 / ROWS**0.5)


EDGES: dict[FirstTime, list[int]] = {
    "left_out": [1, 2, 4, 6, 8, 10, 12],
    "like_others": [0, 2, 4, 6, 8, 10, 12],
    "always": [1, 3, 5, 7, 9, 12],
}


@pytest.mark.parametrize("start", EDGES)
def test_awm_draws_one_step_per_part_of_its_grid(start: FirstTime) -> None:
    """linspace(first, int(14 .9), parts + 1) floored; a step of a part is as likely as any other of it."""
    t, k = StratifiedSteps(6, 0.9, start)(AWM_GRID, draws(ROWS))
    assert t.shape == (ROWS, 6) and torch.equal(t, AWM_GRID[k].float())
    edges = EDGES[start]
    parts = k[:, 6 - (len(edges) - 1) :]
    assert (k[:, : 6 - (len(edges) - 1)] == 0).all()
    for j, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        share = torch.bincount(parts[:, j], minlength=14).double() / ROWS
        inside = torch.zeros(14).double()
        inside[low:high] = 1 / (high - low)
        assert share.tolist() == pytest.approx(inside.tolist(), abs=4 * 0.5 / ROWS**0.5)
        assert (share[inside == 0] == 0).all()


def test_the_release_of_crd_draws_nothing_at_random() -> None:
    """20 parts of 9 steps: each of the first nine comes up two or three times, the last never."""
    k = StratifiedSteps(20, 0.99, "like_others")(GRID, draws(50))[1]
    assert (k == k[:1]).all()
    assert torch.bincount(k[0], minlength=10).tolist() == [3, 2, 2, 2, 3, 2, 2, 2, 2, 0]


@pytest.mark.parametrize(
    "select", [PowerLaw(8, 1.0), Permuted(0.4, 0.7), StratifiedSteps(6, 0.9, "left_out")]
)
def test_a_row_has_the_times_of_its_name(select: Any) -> None:
    t, k = select(GRID, draws(50))
    assert t.shape == k.shape and ((t > 0) & (t <= 1)).all() and len(t.unique(dim=0)) > 1
    subset = draws(50).rows(torch.tensor([7, 3, 41]))
    assert torch.equal(select(GRID, subset)[0], t[[7, 3, 41]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PowerLaw(0, 1.0), "times.count = 0 must be at least 1"),
        (lambda: PowerLaw(8, -1.0), "times.exponent = -1.0 must exceed -1"),
        (lambda: PowerLaw(8, float("nan")), "times.exponent = nan must exceed -1"),
        (lambda: PowerLaw(8, 1.0, 1.0), "must satisfy 0 <= low < high <= 1"),
        (lambda: Permuted(0.4, 1.1), "times.among = 1.1 must lie in"),
        (lambda: Permuted(0.8, 0.7), "times.fraction = 0.8 exceeds times.among = 0.7; lower it"),
        (lambda: StratifiedSteps(6, 0.0, "always"), "times.fraction = 0.0 must lie in"),
        (lambda: StratifiedSteps(6, 0.9, "never"), "times.start = never must be left_out, like_others or"),  # type: ignore[arg-type]
        (lambda: StratifiedSteps(0, 0.9, "left_out"), "times.count = 0 must be at least 1"),
        (lambda: StratifiedSteps(1, 0.9, "always"), "times.count = 1 must be at least 1, or 2 with"),
        (lambda: StratifiedSteps(1, 0.1, "left_out")(GRID, draws(1)), "0.1 of 10 steps leaves none; raise"),
    ],
)
def test_impossible_times_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_times_that_do_not_fit_the_sampler_are_refused_before_it_runs(part: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="times.fraction = 0.4 of 2 steps leaves none"):
        part("estimator", "elbo_dgpo", sampler=part("sampler", "ode", num_steps=2))


@pytest.mark.parametrize(
    ("option", "count", "times", "noise"),
    [
        ("elbo_ram", 8, "sample", "sample"),
        ("elbo_awm", 6, "iteration", "sample"),
        ("elbo_dgpo", 4, "iteration", "group"),
        ("elbo_crd", 9, "group", "sample"),
    ],
)
def test_published_counts_and_ties(
    part: Callable[..., Any], option: str, count: int, times: str, noise: str
) -> None:
    estimator = part("estimator", option, sampler=part("sampler", "ode"))
    assert estimator.times(GRID, draws(2))[0].shape == (2, count)
    assert (estimator.tie_times, estimator.tie_noise) == (times, noise)


@pytest.mark.parametrize("field", ["tie_times", "tie_noise"])
@pytest.mark.parametrize("value", [True, "batch"])
def test_an_unknown_tie_is_refused(part: Callable[..., Any], field: str, value: object) -> None:
    with pytest.raises(UserError, match=f"estimator.{field} = {value} must be sample, group or iteration"):
        part("estimator", "elbo", sampler=part("sampler", "ode"), **{field: value})


def test_the_self_normalised_score_of_crd_is_that_of_nft_over_t() -> None:
    """Value and gradient: x0_hat's error is t times the velocity's, in square and in size."""
    v = vectors.THETA.clone().requires_grad_()
    found = AdaptiveVelocity()(v, vectors.TARGET, vectors.T)
    by_hand = -(v - vectors.TARGET).square().mean(1) / (v - vectors.TARGET).detach().abs().mean(1)
    for other in (Adaptive()(v, vectors.TARGET, vectors.T) / vectors.T, by_hand):
        torch.testing.assert_close(found, other)
        ours, theirs = (torch.autograd.grad(f.sum(), v, retain_graph=True)[0] for f in (found, other))
        torch.testing.assert_close(ours, theirs)
