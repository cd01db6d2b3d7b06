"""Paired differences: closed forms, coverage where the truth is known, and ``python -m analysis compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ablate.contract import keys
from ablate.contract.rundir import RunDir, append_row, signature, write_text
from analysis.__main__ import main
from analysis.paired import DRAWS, between, gain_over, paired_over_prompts
from analysis.scores import Floats, prompt_scores

PROMPTS = 60


def even(prompts: int = PROMPTS) -> Floats:
    return np.full(prompts, 1.0 / prompts)


def test_scores_of_one_text_are_one_prompt_and_keep_the_mean() -> None:
    others = list(range(10, 20))
    row = {
        keys.EVAL_VALUES: {"strict": [1.0, 0.0, 1.0, 0.5] + [0.5] * 10},
        keys.EVAL_PROMPTS: [9, 5, 9, 9, *others],
    }
    scores = prompt_scores([row, row], "strict", 1)
    assert scores is not None
    assert scores.names == (5, 9, *others)
    np.testing.assert_allclose(scores.weight * 14, [1, 3] + [1] * 10)
    np.testing.assert_allclose(scores.value, [[0.0, 2.5 / 3] + [0.5] * 10] * 2)
    assert scores.value[0] @ scores.weight == pytest.approx(np.mean(row[keys.EVAL_VALUES]["strict"]))


def test_rows_that_do_not_name_prompts_hold_them_in_turn() -> None:
    old = {keys.EVAL_VALUES: {"strict": [1.0, 0.0, 0.5, 0.7] * 5}}
    scores = prompt_scores([old], "strict", 2)
    assert scores is not None
    np.testing.assert_allclose(scores.value, [[0.5, 0.6] * 5])
    named = old | {keys.EVAL_PROMPTS: [place // 2 + 1 for place in range(20)]}
    for rows in (
        [old, named],
        [{}],
        [old | {keys.EVAL_PROMPTS: [1]}],
        [{keys.EVAL_VALUES: {"other": [1.0]}}],
    ):
        assert prompt_scores(rows, "strict", 2) is None


def test_samples_stand_for_themselves_where_prompts_are_few() -> None:
    row = {keys.EVAL_VALUES: {"near": [0.1, 0.2, 0.3, 0.4]}, keys.EVAL_PROMPTS: [3, 3, 4, 4]}
    scores = prompt_scores([row], "near", 2)
    assert scores is not None
    assert (scores.unit, scores.names) == ("samples", (3, 3, 4, 4))
    np.testing.assert_array_equal(scores.value, [[0.1, 0.2, 0.3, 0.4]])


def test_pairing_takes_the_difficulty_of_prompts_out() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(size=(1, PROMPTS))
    before, after = hard, hard + 0.02 + 0.01 * rng.normal(size=hard.shape)
    gain = gain_over(before, after, even(), rng)
    assert gain.sure
    assert gain.p is not None
    assert gain.p == pytest.approx(1.0 / (DRAWS + 1))
    assert gain.high is not None and gain.low is not None
    assert gain.high - gain.low < 0.01  # unpaired it would be 0.2
    assert (gain.over, gain.seeds, gain.prompts) == ("prompts", (1, 1), PROMPTS)


def test_equal_evaluations_do_not_differ() -> None:
    same = np.random.default_rng(0).uniform(size=(3, PROMPTS))
    for seeds in (1, 3):
        gain = gain_over(same[:seeds], same[:seeds], even(), np.random.default_rng(0))
        assert (gain.value, gain.low, gain.high, gain.p) == (0.0, 0.0, 0.0, 1.0)


def test_too_few_prompts_and_seeds_give_no_interval() -> None:
    gain = between(np.ones((2, 9)), np.zeros((2, 9)), even(9), np.random.default_rng(0))
    assert gain.value == pytest.approx(1.0)
    assert (gain.low, gain.high, gain.p, gain.over) == (None, None, None, "nothing")


def test_the_p_of_no_difference_is_uniform() -> None:
    rng = np.random.default_rng(3)
    found = [paired_over_prompts(rng.normal(size=PROMPTS), even(), rng, draws=1000)[2] for _ in range(400)]
    for level in (0.05, 0.5, 0.9):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.04 if level == 0.05 else 0.08)


@pytest.mark.parametrize(
    ("seed_sd", "prompt_sd", "noise"), [(0.3, 0.1, 0.3), (0.02, 0.5, 0.3), (0.1, 0.5, 0.5)]
)
def test_intervals_over_seeds_and_prompts_cover_the_truth(
    seed_sd: float, prompt_sd: float, noise: float
) -> None:
    """Crossed effects of known size; the mean gain is 0.25 in the population of seeds and prompts."""
    rng, hits, draws = np.random.default_rng(4), 0, 1000
    for _ in range(draws):
        gain = (
            0.25
            + seed_sd * rng.normal(size=(5, 1))
            + prompt_sd * rng.normal(size=(1, PROMPTS))
            + noise * rng.normal(size=(5, PROMPTS))
        )
        found = gain_over(np.zeros_like(gain), gain, even(), rng)
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.25 <= found.high
    assert 0.92 <= hits / draws <= 0.98


def test_intervals_over_prompts_alone_cover_the_truth() -> None:
    rng, hits, draws = np.random.default_rng(6), 0, 500
    for _ in range(draws):
        low, high, _ = paired_over_prompts(rng.normal(0.1, 0.4, PROMPTS), even(), rng, draws=1000)
        hits += low <= 0.1 <= high
    assert 0.92 <= hits / draws <= 0.98


def test_intervals_between_arms_cover_the_truth() -> None:
    """Two arms find the same prompts hard, one harder than the other."""
    rng, hits, draws, seeds = np.random.default_rng(5), 0, 1000, 5
    for _ in range(draws):
        hard = 0.5 * rng.normal(size=(1, PROMPTS))
        arms = [
            mean + hard * slope
            + 0.05 * rng.normal(size=(seeds, 1))
            + 0.3 * rng.normal(size=(seeds, PROMPTS))
            for mean, slope in ((0.5, 1.0), (0.4, 0.8))
        ]  # fmt: skip
        found = between(*arms, even(), rng)
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.1 <= found.high
    assert 0.92 <= hits / draws <= 0.98


def add_run(runs: Path, *, ends: float, rows: int = 4, seed: int = 0, **what: Any) -> RunDir:
    """A run whose prompts' scores rise from 0.2 to ``ends`` in three evaluations, 0.1 h apart."""
    settings = {"sampler": "ode", "device": "cpu", "policy": "shapes", "prompts": range(40)} | what
    config = {
        "seed": seed,
        "sampler": {"_target_": settings["sampler"]},
        "policy": {"_target_": settings["policy"]},
        "reward": {"headline": "strict"},
        "evaluation": {"seed": settings.get("evaluation", 7), "samples_per_prompt": 1},
        "choices": {"objective": "epg", "estimator": "elbo"}
        | {key: settings[key] for key in ("policy", "sampler")},
    }
    run = RunDir(runs / signature(config))
    write_text(run.config, yaml.safe_dump(config))
    hard = np.random.default_rng(1).normal(size=len(settings["prompts"]))
    rng = np.random.default_rng(seed)
    for row in range(rows):
        mean = 0.2 + (ends - 0.2) * row / 3
        noise = 0.05 * rng.normal(size=len(hard)) if row else 0.0
        scores = (mean + hard + noise).tolist()
        append_row(
            run.evals,
            {
                keys.ITERATION: 10 * row,
                keys.SAMPLES: 100 * row,
                keys.FORWARDS: 1000 * row,
                keys.GPU_HOURS: 0.1 * row,
                keys.DEVICE: settings["device"],
                keys.eval_mean("strict"): float(np.mean(scores)),
                keys.EVAL_VALUES: {"strict": scores},
                keys.EVAL_PROMPTS: list(settings["prompts"]),
            },
        )
    run.update_state(state=settings.get("state", "done"), iteration=10 * (rows - 1))
    return run


def ask(runs: Path, *words: str) -> int:
    return main(["compare", *words, f"runs={runs}"])


def test_the_answer_says_which_by_how_much_how_sure_and_at_what_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        add_run(tmp_path, ends=0.8, seed=seed)
        add_run(tmp_path, ends=0.5, seed=seed, sampler="sde")
    assert ask(tmp_path, "ode", "sampler=sde") == 0
    first, second, verdict, chance, cost, ratio = capsys.readouterr().out.splitlines()
    assert first.startswith("A  ode (shapes, strict reward, cpu)")
    assert "300 samples, 3,000 forwards (n = 3)" in second
    assert verdict.startswith("A is better: A - B = +0.3")
    assert "p < 0.0001 (paired over 40 prompts, and over n = 3 seeds)" in verdict
    assert chance.startswith("A run of A beats a run of B with probability 1.00 [0.")
    assert "A 0.2 h (3 of 3 seeds), B 0.3 h" in cost
    assert ratio == "There B needs 1.50 [1.50, 1.50] times the mean hours of A."
    assert ask(tmp_path, "sde", "ode") == 0
    assert "\nB is better: A - B = -0.3" in capsys.readouterr().out


def test_every_arm_is_set_against_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(tmp_path, ends=0.8)
    add_run(tmp_path, ends=0.201, sampler="sde")
    assert ask(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ode (shapes, strict reward, cpu): 0.")
    assert "p < 0.0001 (paired bootstrap over 40 prompts; of these runs alone, n = 1)" in lines[1]
    assert lines[-1] == "1 of 2 arms end above their base with p < 0.01."


def test_a_point_of_training_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = add_run(tmp_path, ends=0.8)
    assert ask(tmp_path, f"{run.name}@10", f"{run.name}@base") == 0
    out = capsys.readouterr().out
    assert "after 10 iterations" in out and "before training" in out
    assert "\nA is better: A - B = +0." in out
    assert ask(tmp_path, f"{run.name}@11", run.name) == 1
    assert "was not evaluated at iteration 11 (but at 0, 10, 20, 30)" in capsys.readouterr().err


def test_arms_are_compared_at_equal_cost_unless_at_their_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(tmp_path, ends=0.8, rows=4)
    add_run(tmp_path, ends=0.6, rows=2, sampler="sde")
    for at, samples in (("hours", 100), ("samples", 100), ("forwards", 100), ("end", 300)):
        assert ask(tmp_path, "ode", "sde", f"at={at}") == 0
        assert f"{samples} samples" in capsys.readouterr().out.splitlines()[0]


def test_other_prompts_are_not_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(tmp_path, ends=0.8)
    add_run(tmp_path, ends=0.6, sampler="sde", prompts=range(1, 41))
    assert ask(tmp_path, "ode", "sde") == 0
    assert "Undecided: A - B = +0.2" in (out := capsys.readouterr().out)
    assert "no interval, with 1 prompts" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["shapes · sd", "sde"], "did you mean shapes · sde?"),
        (["objective=epg", "sde"], "fits 4 arms"),
        (["ode", "sde", "ode"], "3 sides"),
        (["ode", "policy=other,sampler=ode"], "not one measure"),
        (["ode", "sampler=sde", "at=noon"], "choose hours or samples"),
        (["ode", "sampler=gpu"], "have no common unit; compare at=samples"),
        (["ode", "sampler=odd"], "not evaluated alike (evaluation.seed)"),
        (["ode", "metrik=strict"], "no arm and no run is 'metrik=strict'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    add_run(tmp_path, ends=0.8)
    add_run(tmp_path, ends=0.6, sampler="sde")
    if "noon" not in str(words) and "objective" not in str(words):
        add_run(tmp_path, ends=0.6, sampler="ode", policy="other")
        words = ["policy=shapes,sampler=ode" if word == "ode" else word for word in words]
    add_run(tmp_path, ends=0.6, sampler="gpu", device="NVIDIA H200")
    add_run(tmp_path, ends=0.6, sampler="odd", evaluation=8)
    assert ask(tmp_path, *words) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
