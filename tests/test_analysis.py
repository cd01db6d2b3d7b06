"""Curves, statistics and labels of ``analysis``: closed forms, and properties over all inputs."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from analysis.curves import SLACK, Curve, resample, shared_grid
from analysis.labels import differing, label_arms
from analysis.load import flatten
from analysis.stats import bootstrap_ci, estimate, hours_to, iqm, mean, separated

FINITE = st.floats(-1e3, 1e3)
SORTED = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=12).map(sorted)


def curve(hours: list[float], value: list[float], seed: int = 0) -> Curve:
    rows = np.arange(len(hours), dtype=float)
    return Curve(
        signature=f"run{seed}",
        seed=seed,
        iteration=rows,
        hours=np.array(hours),
        value=np.array(value),
        error=rows * np.nan,
        forwards=rows * 100,
        tasks={},
        images=(None,) * len(hours),
    )


@given(SORTED, st.lists(st.floats(-1.0, 11.0), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_resample_is_the_last_row_no_later_than_the_point(
    hours: list[float], grid: list[float], seed: int
) -> None:
    value = np.random.default_rng(seed).normal(size=len(hours))
    held = resample(np.array(hours), value, np.array(grid))
    for at, found in zip(grid, held, strict=True):
        rows = [row for row, hour in enumerate(hours) if hour <= at]
        if rows and at <= hours[-1]:
            assert found == value[rows[-1]]
        else:
            assert math.isnan(found)


@pytest.mark.parametrize(
    ("hours", "value", "says"),
    [([1.0, 0.5], [0.0, 1.0], "decrease"), ([1.0], [0.0, 1.0], "equal lists"), ([], [], "one row")],
)
def test_resample_refuses_what_is_no_curve(hours: list[float], value: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        resample(np.array(hours), np.array(value), np.array([0.0]))


def test_an_evaluation_just_after_the_budget_counts_and_a_later_one_does_not() -> None:
    run = curve([0.0, 1.0, 2.0], [0.1, 0.5, 0.9])
    at = run.at(run.value, np.array([1.0 / (1.0 + SLACK / 2.0), 1.0 / (1.0 + 2.0 * SLACK), 2.0, 2.001]))
    np.testing.assert_array_equal(at, [0.5, 0.1, 0.9, np.nan])


def test_seeds_share_a_grid_up_to_where_the_first_ends() -> None:
    fast, slow = curve([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]), curve([0.0, 1.5, 3.0], [0.0, 1.0, 2.0], seed=1)
    np.testing.assert_array_equal(shared_grid((fast, slow)), [0.0, 1.5, 2.0])
    np.testing.assert_array_equal(slow.at(slow.value, shared_grid((fast, slow))), [0.0, 1.0, 1.0])


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    values = np.array([[9.0], [1.0], [2.0], [3.0], [4.0], [5.0], [-80.0], [1000.0]])
    assert iqm(values)[0] == pytest.approx((2.0 + 3.0 + 4.0 + 5.0) / 4.0)
    assert iqm(values[:3])[0] == pytest.approx(4.0)  # up to three seeds it is the mean


@given(arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=FINITE))
def test_iqm_lies_among_the_seeds_and_knows_no_order(values: np.ndarray) -> None:
    middle = iqm(values)
    assert np.all(middle >= values.min(axis=0) - 1e-9)
    assert np.all(middle <= values.max(axis=0) + 1e-9)
    np.testing.assert_allclose(iqm(values[::-1]), middle, atol=1e-9)
    np.testing.assert_allclose(iqm(values + 7.0), middle + 7.0, atol=1e-9)


@given(arrays(np.float64, st.tuples(st.integers(3, 8), st.integers(1, 4)), elements=FINITE))
def test_an_interval_lies_within_the_seeds_and_around_their_mean(values: np.ndarray) -> None:
    low, high = bootstrap_ci(values, mean, np.random.default_rng(0))
    assert np.all(values.min(axis=0) - 1e-9 <= low)
    assert np.all(low <= high)
    assert np.all(high <= values.max(axis=0) + 1e-9)


def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_ci(rng.normal(3.0, 1.0, size=(25, 1)), mean, rng, level=0.9)
        hits += bool(low[0] <= 3.0 <= high[0])
    assert 0.82 <= hits / 200 <= 0.96


def test_the_bootstrap_width_is_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(2).normal(size=(100, 1))
    low, high = bootstrap_ci(values, mean, np.random.default_rng(0))
    assert (high - low)[0] == pytest.approx(2 * 1.96 * values.std() / 10.0, rel=0.1)


def test_the_bootstrap_needs_three_seeds_and_a_level_and_keeps_nan() -> None:
    with pytest.raises(ValueError, match="S >= 3"):
        bootstrap_ci(np.zeros((2, 4)), mean, np.random.default_rng(0))
    with pytest.raises(ValueError, match="level = 95"):
        bootstrap_ci(np.zeros((3, 4)), mean, np.random.default_rng(0), level=95)
    values = np.array([[1.0, np.nan], [1.0, 2.0], [1.0, 3.0]])
    low, high = bootstrap_ci(values, mean, np.random.default_rng(0))
    np.testing.assert_array_equal([low, high], [[1.0, np.nan], [1.0, np.nan]])


def test_an_estimate_has_an_interval_from_three_seeds_up() -> None:
    rng = np.random.default_rng(0)
    assert estimate(np.array([0.5, 0.7]), mean, rng).text() == "0.600"
    assert estimate(np.array([0.5, 0.5, 0.5]), mean, rng).text() == "0.500 [0.500, 0.500]"


def test_arms_are_separated_by_their_difference_not_by_one_lucky_seed() -> None:
    rng = np.random.default_rng(0)
    low, high = np.array([0.50, 0.52, 0.51]), np.array([0.60, 0.62, 0.61])
    assert separated(high, low, mean, rng) is True
    assert separated(low, high, mean, rng) is False
    assert separated(np.array([0.50, 0.51, 0.80]), low, mean, rng) is False
    assert separated(high[:2], low, mean, rng) is None


@given(SORTED, st.floats(-3.0, 3.0), st.integers(0, 2**32 - 1))
def test_hours_to_is_the_first_row_there_or_infinite_never_nan(
    hours: list[float], threshold: float, seed: int
) -> None:
    value = np.random.default_rng(seed).normal(size=len(hours))
    found = hours_to(np.array(hours), value, threshold)
    there = [hour for hour, reward in zip(hours, value, strict=True) if reward >= threshold]
    assert found == (there[0] if there else math.inf)


def test_a_label_says_what_differs_and_no_more() -> None:
    axes = {"objective": "epg", "estimator": "elbo", "sampler": "ode", "policy": "shapes", "reward": "shapes"}
    config = {"optimizer.lr": 1e-4, "batch.micro": 8}
    both = [axes, axes | {"sampler": "sde"}]
    assert label_arms(both, [config, config]) == ["ode", "sde"]
    assert label_arms([axes], [config]) == ["epg · elbo · ode"]
    tuned = [*both, axes | {"sampler": "sde"}]
    found = label_arms(tuned, [config, config, config | {"optimizer.lr": 3e-4}])
    assert found == ["ode", "sde · optimizer.lr=0.0001", "sde · optimizer.lr=0.0003"]
    moved = [axes, axes | {"policy": "mixture2d", "reward": "mixture2d"}]
    assert label_arms(moved, [config, config]) == ["shapes", "mixture2d"]
    kept = [axes | {"regularizer": "none"}, axes | {"regularizer": "k1"}, axes | {"sampler": "sde"}]
    assert label_arms(kept, [config] * 3) == ["ode · regularizer=none", "ode · regularizer=k1", "sde"]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=5))
def test_keys_differ_exactly_where_values_do(rows: list[dict[str, int]]) -> None:
    telling = differing(rows)
    for key in "abc":
        assert (key in telling) == (len({row.get(key) for row in rows}) > 1)


def test_a_flat_config_has_scalars_alone() -> None:
    config = {"optimizer": {"betas": [0.9, 0.999], "lr": 0.1}, "seed": 3, "resources": {}}
    assert flatten(config) == {"optimizer.betas": "[0.9, 0.999]", "optimizer.lr": 0.1, "seed": 3}


def test_analysis_leaves_torch_alone() -> None:
    code = "import sys, analysis.__main__; sys.exit('torch' in sys.modules or 'wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_arm_with_an_experiment_of_its_own_is_called_by_it() -> None:
    named = [{"objective": "epg", "experiment": name} for name in ("a/x", "b/y")]
    assert label_arms(named, [{}, {}]) == ["a/x", "b/y"]
    assert label_arms([named[0], {"objective": "nft", "experiment": "None"}], [{}, {}]) == ["epg", "nft"]
    same = [{"objective": o, "experiment": "a/x"} for o in ("epg", "nft")]
    assert label_arms(same, [{}, {}]) == ["epg", "nft"]
