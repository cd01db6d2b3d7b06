"""Reports over run directories written through ``RunDir``: tables, figures, page, and what is refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from ablate.contract import keys
from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir, append_row, signature, write_text
from analysis.load import frames
from analysis.page import render
from analysis.report import Report, build, figures, table_csv, table_md
from analysis.sources.rundir import read_run, run_roots
from analysis.spec import Spec
from analysis.tables import COLUMNS

SPEC = Spec(name="test", title="A <test> & more", threshold=0.5)


def add_run(runs: Path, *, rows: int = 5, state: str = "done", **what: Any) -> RunDir:
    """A run with one evaluation every ``hour``: reward 0.1 + slope·hours."""
    default = {"seed": 0, "sampler": "ode", "slope": 1.0, "hour": 0.1, "device": "cpu", "policy": "shapes"}
    settings: dict[str, Any] = default | what
    group = {"objective": "epg", "estimator": "elbo"} | {key: settings[key] for key in ("policy", "sampler")}
    config = {
        "seed": settings["seed"],
        "sampler": {"_target_": settings["sampler"]},
        "policy": {"_target_": settings["policy"]},
        "reward": {"headline": "strict"},
        "evaluation": {"seed": settings.get("evaluation", 7), "every_iterations": 10},
        "choices": group,
    }
    run = RunDir(runs / signature(config))
    write_text(run.config, yaml.safe_dump(config))
    write_text(run.commit, "commit 0123abcd\ntorch 2.13.0\n")
    write_text(run.overrides, f"sampler={settings['sampler']} seed={settings['seed']}\n")
    for row in range(rows):
        hours = row * settings["hour"]
        add_row(run, row, 0.1 + settings["slope"] * hours, hours, settings["device"])
    error = {"error": "loss is not finite"} if state == "failed" else {}
    run.update_state(state=state, iteration=rows - 1, started=1.8e9, **error)
    return run


def add_row(run: RunDir, iteration: int, reward: float, hours: float, device: str = "cpu") -> None:
    image = f"images/{iteration:06d}.png"
    run.images.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 4), (iteration, 0, 0)).save(run.root / image)
    shared = {
        keys.ITERATION: iteration,
        keys.GPU_HOURS: hours,
        keys.FORWARDS: 1000 * iteration,
        keys.DEVICE: device,
    }
    measured = {keys.eval_mean("strict"): reward, keys.eval_mean("partial"): 2.0 * reward}
    tasks = {keys.eval_tag("strict", "one"): reward + 0.1, keys.eval_tag("strict", "two"): reward - 0.1}
    more = {
        keys.EVAL_TAGS: ["one", "two"],
        keys.EVAL_VALUES: {"strict": [reward - 0.1, reward + 0.1]},
        keys.EVAL_IMAGES: image,
    }
    append_row(run.evals, shared | measured | tasks | more)
    if iteration:
        append_row(run.metrics, shared | {keys.time_of("rollout"): 1.0, keys.time_of("update"): 3.0})


def report(runs: Path, spec: Spec = SPEC) -> Report:
    return build(spec, [read_run(root) for root in run_roots(runs)])


def table(made: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_csv(made))))


def test_the_table_is_computed_at_equal_device_hours(tmp_path: Path) -> None:
    for seed, slope in enumerate((0.9, 1.0, 1.1)):
        add_run(tmp_path, seed=seed, slope=slope)
        add_run(tmp_path, seed=seed, sampler="sde", slope=0.5, rows=9)
    made = report(tmp_path)
    ode, sde = table(made)
    assert tuple(ode) == COLUMNS
    expected = {
        "arm": "ode",
        "objective": "epg",
        "estimator": "elbo",
        "sampler": "ode",
        "policy": "shapes",
        "n": "3",
    }
    assert {key: ode[key] for key in expected} == expected
    assert float(ode["reward_initial"]) == pytest.approx(0.1)
    assert float(ode["reward_final"]) == pytest.approx(0.1 + 0.4)
    assert float(sde["reward_final"]) == pytest.approx(0.1 + 0.5 * 0.4)  # not 0.5, its reward after 0.8 h
    assert float(ode["device_hours"]) == float(sde["device_hours"]) == pytest.approx(0.4)
    assert (ode["device"], ode["forwards"], sde["forwards"]) == ("cpu", "4000", "4000")
    assert float(ode["hours_to_threshold"]) == pytest.approx(0.4)  # seeds: inf, 0.4, 0.4
    assert float(sde["hours_to_threshold"]) == pytest.approx(0.8)
    text = table_md(made)
    assert "0.500 [0.401, 0.599]" in text  # Student's interval of 0.46, 0.50, 0.54
    assert "0.500 [0.500, 0.500] at 0.8 h" in text
    assert "0.4 h (2 of 3)" in text
    assert "at 0.4 h, the budget that every arm reached" in text
    assert "standard error of one evaluation, over its samples, is up to 0.100" in text


def test_a_threshold_nobody_reached_is_infinite(tmp_path: Path) -> None:
    add_run(tmp_path)
    made = report(tmp_path, Spec(name="test", title="test", threshold=0.9))
    assert table(made)[0]["hours_to_threshold"] == "inf"
    assert "not reached" in table_md(made)
    assert "No arm reached 0.9." in made.panels[0].sentences
    assert "[" not in table_md(made).split("\n\n")[1]  # one seed has no interval


def test_frames_hold_config_and_the_last_row_of_every_iteration(tmp_path: Path) -> None:
    run = add_run(tmp_path, rows=3)
    add_row(run, 2, 0.7, 0.21)  # resumed from iteration 1
    add_row(run, 3, 0.8, 0.31)
    with run.evals.open("a") as file:
        file.write('{"iteration": 4, "gpu_ho')  # killed while writing
    evals = frames([read_run(run.root)]).evals
    assert evals[keys.ITERATION].tolist() == [0, 1, 2, 3]
    assert evals[keys.eval_mean("strict")].tolist() == [0.1, pytest.approx(0.2), 0.7, 0.8]
    assert set(evals["choices.sampler"]) == {"ode"}
    assert set(evals["evaluation.seed"]) == {7}
    assert float(table(report(tmp_path))[0]["reward_final"]) == pytest.approx(0.8)


def test_devices_and_policies_are_never_pooled(tmp_path: Path) -> None:
    add_run(tmp_path, seed=0, slope=1.0)
    add_run(tmp_path, seed=1, slope=0.5, device="NVIDIA H200", hour=0.01)
    add_run(tmp_path, seed=0, policy="mixture2d")
    made = report(tmp_path)
    assert {(row["policy"], row["device"], row["n"]) for row in table(made)} == {
        ("shapes", "cpu", "1"),
        ("shapes", "NVIDIA H200", "1"),
        ("mixture2d", "cpu", "1"),
    }
    assert {row["device_hours"] for row in table(made) if row["device"] == "NVIDIA H200"} == {"0.04"}
    page = render(made, figures(made))
    assert "never\npooled" in page or "never pooled" in page


def test_a_run_on_two_devices_has_no_hours(tmp_path: Path) -> None:
    add_run(tmp_path, seed=0)
    moved = add_run(tmp_path, seed=1)
    add_row(moved, 5, 0.9, 0.5, device="NVIDIA H200")
    made = report(tmp_path)
    assert table(made)[0]["n"] == "1"
    assert "recorded on 2 devices (NVIDIA H200, cpu)" in made.left_out[0].reason
    assert "1 (1 left out)" in table_md(made)


def test_unfinished_runs_count_only_when_asked_for(tmp_path: Path) -> None:
    add_run(tmp_path, seed=0)
    add_run(tmp_path, seed=1, state="failed", rows=3)
    add_run(tmp_path, seed=2, state="running", rows=1)
    made = report(tmp_path)
    assert table(made)[0]["n"] == "1"
    assert sorted(other.reason for other in made.left_out) == [
        "failed: loss is not finite",
        "running, not finished",
    ]
    early = report(tmp_path, Spec(name="test", title="test", unfinished=True))
    assert table(early)[0]["n"] == "2"
    assert float(table(early)[0]["device_hours"]) == pytest.approx(0.2)
    assert early.panels[0].cautions


def test_arms_evaluated_differently_are_called_out(tmp_path: Path) -> None:
    add_run(tmp_path)
    add_run(tmp_path, sampler="sde", evaluation=8)
    assert "evaluation.seed" in report(tmp_path).panels[0].cautions[0]


def test_the_finding_follows_the_data(tmp_path: Path) -> None:
    for seed in range(3):
        add_run(tmp_path, seed=seed, slope=1.0 + 0.01 * seed)
        add_run(tmp_path, seed=seed, sampler="sde", slope=-0.1)
    panel = report(tmp_path).panels[0]
    assert (
        panel.headline == "ode takes the strict reward from 0.10 to 0.50 in 0.4 CPU process-hours (24 min)."
    )
    assert "excludes zero" in panel.sentences[0]
    assert panel.sentences[-1] == "1 of 2 arms end above where they started."


def test_an_old_evaluation_is_called_out(tmp_path: Path) -> None:
    add_run(tmp_path, hour=0.1, rows=5)
    add_run(tmp_path, sampler="sde", hour=0.15, rows=5)
    (caution,) = report(tmp_path).panels[0].cautions
    assert "sde (25%)" in caution  # read at 0.3 h of 0.4 h
    assert "ode" not in caution


def test_labels_of_the_spec_replace_automatic_ones(tmp_path: Path) -> None:
    add_run(tmp_path)
    add_run(tmp_path, sampler="sde", slope=0.5)
    made = report(tmp_path, Spec(name="test", title="test", labels={"ode": "Euler"}))
    assert [row["arm"] for row in table(made)] == ["Euler", "sde"]
    with pytest.raises(UserError, match="no arm is called 'odd'; did you mean ode"):
        report(tmp_path, Spec(name="test", title="test", labels={"odd": "Euler"}))
