"""Estimates against closed forms, and against populations whose truth is known."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from ablate.contract.errors import UserError
from analysis import stats, survival, variance
from analysis.contrasts import area_under, probability_of_improvement
from analysis.curves import Curve
from analysis.scores import Floats
from analysis.stats import iqm, mean, studentized_ci
from analysis.survival import (
    Times,
    mean_estimate,
    median,
    median_estimate,
    restricted_mean,
    speed_up,
    times_to,
)
from analysis.variance import decompose

DRAWS = 400


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage is counted over hundreds of draws: each can do with fewer resamples than a report's."""
    monkeypatch.setattr(stats, "RESAMPLES", 400)
    monkeypatch.setattr(survival, "RESAMPLES", 400)
    monkeypatch.setattr(variance, "RESAMPLES", 400)


def curve(hours: list[float], value: list[float]) -> Curve:
    rows = np.arange(len(hours), dtype=float)
    return Curve(
        "run", 0, rows, np.array(hours), np.array(value), rows * np.nan, rows, {}, (None,) * len(hours)
    )


@pytest.mark.parametrize("statistic", [mean, iqm])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_over_seeds_cover_the_truth(statistic: object, seeds: int) -> None:
    """Learning curves 0.3 + 0.5·(1 − e^(−3h)) whose heights differ by seed; the truth at three points."""
    rng, draws, grid = np.random.default_rng(seeds), 600, np.array([0.1, 0.5, 1.0])
    of = iqm if statistic is iqm else mean
    truth = 0.3 + 0.5 * (1.0 - np.exp(-3.0 * grid)) * math.exp(0.5 * 0.05**2)
    hits = np.zeros(3)
    for _ in range(draws):
        height = 0.5 * np.exp(0.05 * rng.normal(size=(seeds, 1)))
        curves = 0.3 + height * (1.0 - np.exp(-3.0 * grid)) + 0.02 * rng.normal(size=(seeds, 1))
        low, high = studentized_ci(curves, of, rng)
        hits += (low <= truth) & (truth <= high)
    assert np.all((hits / draws >= 0.92) & (hits / draws <= 0.98))


def test_without_censoring_the_estimates_are_the_plain_ones() -> None:
    hours, all_there = np.array([3.0, 1.0, 2.0, 5.0, 4.0]), np.ones(5, dtype=bool)
    assert median(hours, all_there) == 3.0
    assert restricted_mean(hours, all_there, 10.0) == pytest.approx(3.0)
    assert restricted_mean(hours, all_there, 4.0) == pytest.approx((1 + 2 + 3 + 4 + 4) / 5)


def test_a_run_that_stopped_early_leaves_its_weight_to_those_who_go_on() -> None:
    """Kaplan–Meier by hand: of 1, 2+, 3, 4 the survival is 3/4, then 3/8, then 0."""
    hours, reached = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, True])
    assert restricted_mean(hours, reached, 4.0) == pytest.approx(1.0 + 2.0 * 3 / 4 + 1.0 * 3 / 8)
    assert median(hours, reached) == 3.0
    assert median(hours, np.array([True, False, False, False])) == math.inf


def test_times_tell_who_never_got_there() -> None:
    fast, never = curve([0.0, 1.0, 2.0], [0.0, 0.7, 0.9]), curve([0.0, 1.0, 2.5], [0.0, 0.1, 0.2])
    times = times_to([fast, never], 0.6)
    np.testing.assert_array_equal(times.hours, [1.0, 2.5])
    np.testing.assert_array_equal(times.reached, [True, False])


def censored(rng: np.random.Generator, seeds: int, centre: float = 1.0, cut: float = 1.5) -> Times:
    """Lognormal hours around ``centre``; a run is stopped at ``cut``, and one in five crashes before."""
    hours = centre * np.exp(0.4 * rng.normal(size=seeds))
    crash = np.where(rng.uniform(size=seeds) < 0.2, rng.uniform(0.2, cut, size=seeds), cut)
    crash[0] = cut
    return Times(np.minimum(hours, crash), hours <= crash)


def lognormal_restricted_mean(centre: float, horizon: float) -> float:
    return float(
        np.minimum(centre * np.exp(0.4 * np.random.default_rng(0).normal(size=2_000_000)), horizon).mean()
    )


def test_censored_hours_are_unbiased_and_dropping_runs_is_not() -> None:
    """The mean estimate of 4000 grids of 10 seeds lies within three standard errors of the truth."""
    rng, truth, cut = np.random.default_rng(7), lognormal_restricted_mean(1.0, 1.5), 1.5
    grids = [censored(rng, 10) for _ in range(4000)]
    found = np.array([restricted_mean(times.hours, times.reached, cut) for times in grids])
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - truth) < 3.0 * error
    survivors = np.array([times.hours[times.reached].mean() for times in grids])
    assert survivors.mean() < truth - 20.0 * error  # what a table without the failures would say
    medians = np.array([median(times.hours, times.reached) for times in grids])
    assert np.median(medians) == pytest.approx(1.0, abs=0.03)


def test_intervals_of_censored_hours_cover_the_truth() -> None:
    rng, truth, hits = np.random.default_rng(8), lognormal_restricted_mean(1.0, 1.5), {"mean": 0, "median": 0}
    for _ in range(DRAWS):
        times = censored(rng, 8)
        of_mean, of_median = mean_estimate(times, 1.5, rng), median_estimate(times)
        assert of_mean.low is not None and of_mean.high is not None
        assert of_median.low is not None and of_median.high is not None
        hits["mean"] += of_mean.low <= truth <= of_mean.high
        hits["median"] += of_median.low <= 1.0 <= of_median.high
    assert all(0.92 <= count / DRAWS <= 0.98 for count in hits.values()), hits


def test_intervals_of_speed_ups_cover_the_truth() -> None:
    rng, hits, horizon = np.random.default_rng(9), 0, 4.0
    truth = lognormal_restricted_mean(2.0, horizon) / lognormal_restricted_mean(0.5, horizon)
    for _ in range(DRAWS):
        ratio = speed_up(censored(rng, 6, 2.0, horizon), censored(rng, 6, 0.5, horizon), horizon, rng)
        assert ratio is not None and ratio.low is not None and ratio.high is not None
        hits += ratio.low <= truth <= ratio.high
    assert 0.92 <= hits / DRAWS <= 0.98


def test_a_ratio_to_an_arm_that_never_arrived_is_a_bound() -> None:
    rng = np.random.default_rng(0)
    never, fast = (
        Times(np.full(4, 2.0), np.zeros(4, dtype=bool)),
        Times(np.full(4, 0.5), np.ones(4, dtype=bool)),
    )
    ratio = speed_up(never, fast, 2.0, rng)
    assert ratio is not None
    assert (ratio.value, ratio.at_least) == (4.0, True)
    assert ratio.text() == "at least 4.00 [4.00, 4.00]"
    assert speed_up(fast, never, 2.0, rng) is None


def test_the_area_is_the_mean_reward_on_the_way() -> None:
    line = curve([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
    assert area_under(line, 2.0) == pytest.approx(1.0)
    assert area_under(line, 1.5) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="must lie in"):
        area_under(line, 2.1)


def test_the_probability_of_improvement_counts_pairs() -> None:
    found = probability_of_improvement(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0]))
    assert found.value == pytest.approx((1 + 0 + 1 + 0.5 + 1 + 1) / 6)
    apart = probability_of_improvement(np.arange(5.0) + 10.0, np.arange(5.0))
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert apart.low is not None and 0.5 < apart.low < 0.8
    behind = probability_of_improvement(np.arange(5.0), np.arange(5.0) + 10.0)
    assert behind.high == pytest.approx(1.0 - apart.low)


def test_intervals_of_the_probability_of_improvement_cover_the_truth() -> None:
    rng, hits = np.random.default_rng(10), 0
    truth = 0.5 * (1.0 + math.erf(1.0 / 2.0))  # P(N(1,1) > N(0,1))
    for _ in range(DRAWS):
        found = probability_of_improvement(rng.normal(1.0, 1.0, 10), rng.normal(0.0, 1.0, 10))
        assert found.low is not None and found.high is not None
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / DRAWS <= 0.98


OBJECTIVES, ESTIMATORS, SAMPLERS = ("epg", "pepg", "par"), ("elbo", "trajectory"), ("ode", "sde")
CELLS = list(product(OBJECTIVES, ESTIMATORS, SAMPLERS))


def grid(cells: list[tuple[str, ...]], seeds: int) -> dict[str, list[str]]:
    rows = [cell for cell in cells for _ in range(seeds)]
    return {
        name: [row[place] for row in rows] for place, name in enumerate(("objective", "estimator", "sampler"))
    }


def planted(
    factors: dict[str, list[str]], rng: np.random.Generator, estimator: float, sampler: float
) -> Floats:
    """Effects ±a of the estimator and ±b of the sampler, an interaction of ±0.3, seeds of deviation 0.5."""
    first = np.where(np.array(factors["estimator"]) == "elbo", 1.0, -1.0)
    second = np.where(np.array(factors["sampler"]) == "ode", 1.0, -1.0)
    both = 0.3 * first * second * (sampler != 0.0)
    return estimator * first + sampler * second + both + 0.5 * rng.normal(size=len(first))


def test_the_decomposition_recovers_planted_shares() -> None:
    rng, factors = np.random.default_rng(11), grid(CELLS, 5)
    whole = 1.0 + 0.25 + 0.09 + 0.25
    truth = {
        "estimator": 1.0 / whole,
        "sampler": 0.25 / whole,
        "estimator × sampler": 0.09 / whole,
        "seed": 0.25 / whole,
    }
    hits, found = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0.0)
    draws = DRAWS
    for _ in range(draws):
        made = decompose(factors, planted(factors, rng, 1.0, 0.5), rng)
        assert sum(share.value for share in made.shares) == pytest.approx(1.0)
        shares = {share.name: share for share in made.shares}
        for name, value in truth.items():
            hits[name] += shares[name].low <= value <= shares[name].high
            found[name] += shares[name].value / draws
    assert all(count / draws >= 0.88 for count in hits.values()), hits
    for name, value in truth.items():
        assert found[name] == pytest.approx(value, abs=0.02)


@pytest.mark.parametrize("cells", [CELLS, [cell for cell in CELLS if cell[1:] != ("trajectory", "ode")]])
def test_the_decomposition_gives_nothing_where_nothing_is_planted(cells: list[tuple[str, ...]]) -> None:
    rng, factors = np.random.default_rng(12), grid(cells, 5)
    found = []
    for _ in range(DRAWS):
        made = decompose(factors, 0.5 * rng.normal(size=len(factors["sampler"])), rng)
        share = next(share for share in made.shares if share.name == "estimator")
        assert share.eta > 0.0
        found.append((share.value, share.low <= 0.0 <= share.high))
    assert abs(np.mean([value for value, _ in found])) < 0.02
    assert np.mean([hit for _, hit in found]) >= 0.88


def test_a_grid_with_holes_is_divided_by_shapley() -> None:
    """Where effects add up and the outcome is exact, the shares are those of the planted order-free game."""
    cells = [cell for cell in CELLS if cell[1:] != ("trajectory", "ode")]
    factors = grid(cells, 4)
    rng = np.random.default_rng(13)
    made = decompose(factors, planted(factors, rng, 1.0, 0.0), rng)
    shares = {share.name: share for share in made.shares}
    assert (made.method, made.cells, made.whole, made.n) == ("shapley", 9, 12, 36)
    assert set(shares) == {"objective", "estimator", "sampler", "seed"}
    assert sum(share.value for share in made.shares) == pytest.approx(1.0)
    assert (
        shares["estimator"].value > 0.5 > shares["sampler"].value > 0.0
    )  # the sampler stands for it in part
    assert shares["objective"].low <= 0.0 <= shares["objective"].high


def test_two_equal_factors_share_alike_and_order_does_not_matter() -> None:
    rng = np.random.default_rng(14)
    option = ["a", "a", "a", "b", "b", "b"]
    outcome = rng.normal(size=6)
    both = decompose({"one": option, "two": option}, outcome, rng)
    assert both.method == "shapley"
    assert both.shares[0].value == pytest.approx(both.shares[1].value)
    other = decompose({"two": option, "one": option}, outcome, rng)
    assert {s.name: s.value for s in other.shares} == pytest.approx({s.name: s.value for s in both.shares})


@pytest.mark.parametrize(
    ("options", "outcome", "says"),
    [
        (["a", "a"], [1.0, 2.0], "nothing varies"),
        (["a", "b"], [1.0, 2.0], "one seed"),
        (["a", "a", "b"], [1.0, math.nan, 2.0], "not finite"),
    ],
)
def test_what_cannot_be_divided_is_refused(options: list[str], outcome: list[float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        decompose({"sampler": options}, np.array(outcome), np.random.default_rng(0))
