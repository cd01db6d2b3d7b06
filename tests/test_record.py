"""The file first, W&B second: real offline files, one per run, no step, the run's signature as id."""

from __future__ import annotations

from pathlib import Path

from running import finish, prepare

from ablate.contract import keys
from ablate.contract.rundir import read_rows

SHORT = ("budget.iterations=4", "evaluation.every_iterations=2", "logging.wandb=offline")


def test_offline_run_records_and_shows(tmp_path: Path) -> None:
    directory = prepare(tmp_path, *SHORT)
    finish(directory)
    (shown,) = directory.root.glob("wandb/offline-run-*/run-*.wandb")
    assert shown.stem == f"run-{directory.name}"
    body = shown.read_bytes()
    assert body[:4] == b":W&B" and b"reward/total/mean" in body and b"eval/samples" in body
    assert directory.read_state()["state"] == "done"


def test_rows_have_the_contracts_keys_and_count_up(tmp_path: Path) -> None:
    directory = prepare(tmp_path, *SHORT[:2])
    finish(directory)
    rows, evals = read_rows(directory.metrics), read_rows(directory.evals)
    assert [row[keys.ITERATION] for row in rows] == [1, 2, 3, 4]
    assert [row[keys.ITERATION] for row in evals] == [0, 2, 4]
    for name in (keys.SAMPLES, keys.FORWARDS, keys.GPU_HOURS, keys.OPTIMIZER_STEP):
        column = [row[name] for row in rows]
        assert column == sorted(set(column)), name
    counted = ("rollout", "reward", "update")
    for row, before in zip(rows, [0.0, *(r[keys.GPU_HOURS] for r in rows)], strict=False):
        spent = sum(row[keys.time_of(phase)] for phase in counted) / 3600
        assert (
            abs(row[keys.GPU_HOURS] - before - spent) < 1e-9
        )  # evaluation and checkpoints cost no device-hours
    assert evals[0][keys.GPU_HOURS] == 0 and evals[-1][keys.GPU_HOURS] == rows[-1][keys.GPU_HOURS]
    for row in evals:
        assert (directory.root / row[keys.EVAL_IMAGES]).read_bytes().startswith(b"\x89PNG")
        assert len(row[keys.EVAL_VALUES]["near"]) == len(row[keys.EVAL_TAGS]) == 16
        assert len(row[keys.EVAL_PROMPTS]) == 16
    assert rows[0][keys.DEVICE] == "cpu"


def test_evaluation_of_the_base_is_the_same_in_every_run(tmp_path: Path) -> None:
    """Fixed prompts and fixed noise: before training, runs of one policy cannot differ."""
    firsts = []
    for seed, objective in ((0, "epg"), (7, "pepg")):
        directory = prepare(tmp_path, *SHORT[:2], f"seed={seed}", f"objective={objective}")
        finish(directory)
        firsts.append(read_rows(directory.evals)[0][keys.EVAL_VALUES])
    assert firsts[0] == firsts[1]


def test_samples_and_hours_budgets_stop(tmp_path: Path) -> None:
    by_samples = prepare(
        tmp_path, "budget.iterations=null", "budget.samples=300", "evaluation.every_iterations=null"
    )
    finish(by_samples)
    assert (
        read_rows(by_samples.metrics)[-1][keys.SAMPLES] == 384
    )  # 128 an iteration: the first multiple past 300
    by_hours = prepare(tmp_path, "budget.iterations=null", "budget.gpu_hours=1.0e-5")
    finish(by_hours)
    assert read_rows(by_hours.metrics)[-1][keys.GPU_HOURS] >= 1e-5
    assert len(read_rows(by_hours.metrics)) < 200
