"""Reports over what a cluster leaves behind: no crash, nothing invented, and what is missing is told."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from test_analysis_compare import add_run

from ablate.contract import keys
from ablate.contract.rundir import RunDir, write_text
from analysis.__main__ import main


def asked(runs: Path, *more: str) -> int:
    return main([f"runs={runs}", f"out={runs / 'out'}", "threshold=0.4", "title=test", *more])


def table(runs: Path) -> list[dict[str, str]]:
    with (runs / "out" / "adhoc" / "table.csv").open() as file:
        return list(csv.DictReader(file))


def page(runs: Path) -> str:
    return (runs / "out" / "adhoc" / "index.html").read_text()


def change(run: RunDir, row: int, **fields: Any) -> None:
    """Rewrite one evaluation; a value of ... drops the key."""
    rows = [json.loads(line) for line in run.evals.read_text().splitlines()]
    rows[row] = {key: value for key, value in (rows[row] | fields).items() if value is not ...}
    write_text(run.evals, "".join(json.dumps(each) + "\n" for each in rows))


def test_zero_runs_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(tmp_path) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no run directory")


def test_one_run_of_one_seed_has_numbers_and_no_intervals(tmp_path: Path) -> None:
    add_run(tmp_path, ends=0.8)
    assert asked(tmp_path) == 0
    (row,) = table(tmp_path)
    assert (row["n"], row["reward_low"], row["hours_low"], row["best"]) == (
        "1",
        "",
        "",
        "0",
    )
    assert 0.7 < float(row["reward_final"]) < 1.2
    assert "One seed per arm" in page(tmp_path)
    assert 'id="shares"' not in page(tmp_path)


def damage_nan(run: RunDir) -> None:
    change(run, 2, **{keys.eval_mean("strict"): float("nan")})


def damage_null(run: RunDir) -> None:
    change(run, 2, **{keys.eval_mean("strict"): None})


def damage_hours(run: RunDir) -> None:
    change(run, 2, **{keys.GPU_HOURS: 0.05})


def damage_version(run: RunDir) -> None:
    change(run, 1, **{keys.GPU_HOURS: ...})


def damage_device(run: RunDir) -> None:
    change(run, 3, **{keys.DEVICE: "NVIDIA H200"})


def damage_middle(run: RunDir) -> None:
    run.evals.write_text(run.evals.read_text().replace("\n", "\nhalf a ro", 1))


def damage_config(run: RunDir) -> None:
    run.config.write_text("seed: [")


def damage_seed(run: RunDir) -> None:
    run.config.write_text("choices: {}\n")


def damage_empty(run: RunDir) -> None:
    run.evals.write_text("")


DAMAGES = {
    damage_nan: "its strict reward at iteration 20 is nan: no number",
    damage_null: "its strict reward at iteration 20 is None: no number",
    damage_hours: "its device-hours go back at iteration 20, from 0.1 to 0.05",
    damage_version: "has no device-hours at iteration 10",
    damage_device: "was recorded on 2 devices (NVIDIA H200, cpu)",
    damage_middle: "eval.jsonl line 2 is damaged",
    damage_config: "config.yaml is damaged",
    damage_seed: "its config names no seed or no headline reward",
    damage_empty: "has no evaluation after the start of training",
}


@pytest.mark.parametrize(
    ("damage", "says"), DAMAGES.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_run_that_cannot_be_trusted_is_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, says: str
) -> None:
    add_run(tmp_path, ends=0.8)
    lost = add_run(tmp_path, ends=0.6, seed=1)
    damage(lost)
    assert main(["compare", f"runs={tmp_path}"]) == 0
    lines = capsys.readouterr().out
    assert "1 of 1 arms" in lines
    assert main(["compare", lost.name, f"runs={tmp_path}"]) == 1  # never silently of another run
    (tmp_path / "alone").mkdir()
    lost.root.rename(tmp_path / "alone" / lost.name)
    assert asked(tmp_path / "alone") == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.splitlines()[-1].startswith("error: no run is fit to be shown, of 1")


def test_a_half_written_last_line_is_no_row(tmp_path: Path) -> None:
    run = add_run(tmp_path, ends=0.8)
    with run.evals.open("a") as file:
        file.write('{"iteration": 40, "eval/strict/mean": 9')
    assert asked(tmp_path) == 0
    (row,) = table(tmp_path)
    assert float(row["reward_final"]) < 1.2
    assert float(row["device_hours"]) == pytest.approx(0.3)


def test_what_is_left_out_is_counted_where_its_arm_stands(tmp_path: Path) -> None:
    add_run(tmp_path, ends=0.8)
    lost = add_run(tmp_path, ends=0.6, seed=1)
    damage_nan(lost)
    add_run(tmp_path, ends=0.5, device="NVIDIA H200", seed=2)
    assert asked(tmp_path) == 0
    assert {(row["device"], row["n"], row["lost"]) for row in table(tmp_path)} == {
        ("cpu", "1", "1"),
        ("NVIDIA H200", "1", "0"),
    }
    text = page(tmp_path)
    assert "is nan: no number" in text and lost.name in text


def test_old_rows_without_forwards_samples_or_scores_are_shown_without_them(tmp_path: Path) -> None:
    for seed in range(3):
        run = add_run(tmp_path, ends=0.8, seed=seed)
        for row in range(4):
            gone = dict.fromkeys((keys.FORWARDS, keys.SAMPLES, keys.EVAL_VALUES, keys.EVAL_PROMPTS), ...)
            change(run, row, **gone)
    assert asked(tmp_path) == 0
    (row,) = table(tmp_path)
    assert (row["samples"], row["forwards"], row["n"]) == ("", "", "3")
    assert float(row["reward_low"]) < float(row["reward_final"])
    assert not (tmp_path / "out" / "adhoc" / "forwards.svg").exists()
    assert main(["compare", f"runs={tmp_path}"]) == 0
