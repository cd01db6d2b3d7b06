"""``python -m runners``: what is told of recorded runs, and what is done to them. Without a cluster."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from commands import command
from running import prepare

from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir, last_row, read_rows
from ablate.train import run as train
from runners import act, attempt, freeze, queue, sbatch, status, submit, view
from runners.forecast import guard, look_back
from runners.plan import Run, plan
from runners.submit import Fate

SLURM = ("resources=slurm", "resources.gpus=0", "resources.threads=1")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of pretended SLURM programs, the only ones on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    queue.listed.cache_clear()
    yield folder
    queue.listed.cache_clear()


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def submitted(root: Path, *overrides: str, **job: object) -> RunDir:
    """A run directory as a submission leaves it."""
    directory = prepare(root, *SLURM, *overrides)
    directory.job.write_text(json.dumps({"batch": "b", "index": 0, "submitted": 0.0} | job))
    return directory


@pytest.mark.parametrize(
    ("line", "expected", "shown"),
    [
        ("ablate-b|0|7_0|PENDING|Priority", Fate.QUEUED, "queued"),
        ("ablate-b|0|7_0|RUNNING|None", Fate.LIVE, "live"),
        ("ablate-b|0|7_0|CANCELLED|None", Fate.START, "dead"),
        ("ablate-b|1|7_1|RUNNING|None", Fate.START, "dead"),  # another task of the array
        ("another|0|8_0|RUNNING|None", Fate.START, "dead"),
    ],
)
def test_the_queue_says_whether_a_run_is_on_its_way(
    line: str, expected: Fate, shown: str, programs: Path, tmp_path: Path
) -> None:
    program(programs, "squeue", f"echo '{line}'")
    directory = submitted(tmp_path / "runs")
    run = Run((), directory.name, {"paths": {"runs": str(tmp_path / "runs")}}, {}, ())
    assert submit.fate(run) is expected and status.state_of(directory) == shown
    directory.update_state(state="done")
    assert submit.fate(run) is Fate.DONE and status.state_of(directory) == "done"


def test_a_queue_that_does_not_answer_is_no_empty_queue(programs: Path, tmp_path: Path) -> None:
    program(
        programs, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"
    )
    with pytest.raises(UserError, match="squeue: .*Unable to contact"):
        status.state_of(submitted(tmp_path))


def test_no_sbatch_is_one_line(programs: Path, tmp_path: Path) -> None:
    (item,) = plan([SLURM])
    with pytest.raises(UserError, match="no sbatch on the PATH"):
        sbatch.check(item.config["resources"])


def test_the_script_says_what_the_resources_say(tmp_path: Path) -> None:
    words = (
        "partition=long",
        "gpu_type=h100",
        "nodes=2",
        "minutes=90",
        "throttle=4",
        "constraint='h100&nvlink'",
    )
    lines = [f"resources.slurm.{word}" for word in words] + ["resources.slurm.setup=['module load cuda']"]
    sizes = ("resources=slurm", "resources.gpus=8", "resources.processes=8")
    (item,) = plan([(*sizes, *lines)])
    text = sbatch.script(tmp_path / "b", item.config["resources"], Path("/code"), 12)
    for option in (
        *("--partition=long", "--gres=gpu:h100:4", "--nodes=2", "--ntasks-per-node=1", "--time=90"),
        *(
            "--array=0-11%4",
            "--cpus-per-task=16",
            "--constraint=h100&nvlink",
            "--signal=B:USR1@120",
            "--requeue",
        ),
    ):
        assert f"#SBATCH {option}\n" in text, text
    assert "\nmodule load cuda\n" in text and "export PYTHONPATH=/code" in text
    assert text.splitlines()[-1].startswith(
        "exec "
    )  # else the warning would never reach the trainer's parent


STUB = """
import json, pathlib, signal, sys, time
root = pathlib.Path(sys.argv[1])
def save(number, frame):
    if {saves}:
        (root / "checkpoints").mkdir(exist_ok=True)
        (root / "checkpoints" / "latest.ckpt").write_text("saved")
    (root / "state.json").write_text(json.dumps({{"state": "stopped"}}))
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
(root / "ready").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("saves", [True, False])
def test_a_job_near_its_limit_saves_and_asks_for_another(
    saves: bool, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs, "scontrol", f"echo $* > {tmp_path}/asked")
    directory = submitted(tmp_path / "runs", "resources.slurm.minutes=1", "resources.slurm.lead_s=30")
    stub = [sys.executable, "-c", STUB.format(saves=saves), str(directory.root)]
    monkeypatch.setattr(attempt, "_command", lambda *_: stub)
    monkeypatch.setattr(attempt, "_limit", lambda: 0.0)
    monkeypatch.setattr(attempt, "SPARE_S", -1e12)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    pause = attempt.time.sleep

    def warned(seconds: float) -> None:
        pause(0.01)
        if (directory.root / "ready").exists() and signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(attempt.time, "sleep", warned)
    assert attempt.attempt(directory) == (0 if saves else 1)
    assert [row["event"] for row in read_rows(directory.attempts)] == ["began", "warned", "ended"]
    if saves:
        assert (tmp_path / "asked").read_text().split() == ["requeue", "7"]
    else:
        assert not (tmp_path / "asked").exists()
        assert "no checkpoint within a whole job" in directory.read_state()["error"]


def test_code_is_kept_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    for name in freeze.FROZEN:
        (source / name).mkdir(parents=True)
        (source / name / "a.py").write_text("VALUE = 1\n")
    monkeypatch.setattr(freeze, "ROOT", source)
    freeze.digest.cache_clear()
    submit.version.cache_clear()
    (item,) = plan([(f"paths.runs={tmp_path}/runs",)])
    assert isinstance(item, Run)
    submit.snapshot(item)
    first = freeze.code_of(item.directory)
    (source / "ablate" / "a.py").write_text("VALUE = 2\n")
    assert first is not None and (first / "ablate" / "a.py").read_text() == "VALUE = 1\n"
    submit.snapshot(item)
    assert freeze.code_of(item.directory) == first
    freeze.digest.cache_clear()
    submit.version.cache_clear()
    submit.snapshot(item)
    second = freeze.code_of(item.directory)
    assert second is not None and (second / "ablate" / "a.py").read_text() == "VALUE = 2\n"
    assert len([path for path in second.parent.iterdir() if path.is_dir()]) == 2
    freeze.digest.cache_clear()
    submit.version.cache_clear()


def test_retry_goes_on_with_what_failed_and_nothing_else(tmp_path: Path) -> None:
    done, bad = (prepare(tmp_path / "runs", "budget.iterations=1", f"seed={seed}") for seed in (0, 1))
    for directory in (done, bad):
        directory.update_state(state="stopped")
    config = bad.config.read_text()
    bad.config.write_text(config.replace("num_steps: 10", "num_steps: -3", 1))
    code, out, err = command(tmp_path, "runners", "retry")
    assert code == 1 and bad.name in err and done.name not in err and "num_steps" in err, err
    assert done.read_state()["state"] == "done" and bad.read_state()["state"] == "failed"
    bad.config.write_text(config)
    before = done.metrics.stat().st_mtime_ns
    code, out, err = command(tmp_path, "runners", "retry")
    assert code == 0 and bad.read_state()["state"] == "done", err
    assert done.metrics.stat().st_mtime_ns == before and done.name not in out
    code, out, err = command(tmp_path, "runners", "retry")
    assert code == 0 and "nothing to retry" in out
    code, out, err = command(tmp_path, "runners", "retry", done.name)
    assert code == 1 and "is done" in err and len(err.splitlines()) == 1


def test_collect_brings_records_home_and_leaves_checkpoints(tmp_path: Path) -> None:
    away, home = tmp_path / "away", tmp_path / "home"
    directory = prepare(away)
    directory.metrics.write_text('{"iteration": 1}\n')
    directory.checkpoint.parent.mkdir()
    directory.checkpoint.write_text("large")
    act.collect(str(away), home, everything=False)
    copy = RunDir(home / directory.name)
    assert last_row(copy.metrics) == {"iteration": 1} and not copy.checkpoint.exists()
    directory.metrics.write_text('{"iteration": 1}\n{"iteration": 2}\n')
    act.collect(str(away), home, everything=True)
    assert last_row(copy.metrics) == {"iteration": 2} and copy.checkpoint.read_text() == "large"
    with pytest.raises(UserError, match="there is no"):
        act.collect(str(tmp_path / "nowhere"), home, everything=False)


def test_status_remembers_configs_but_not_states(tmp_path: Path) -> None:
    directory = prepare(tmp_path, "seed=3")
    console = view.Console(width=200)

    def shown() -> str:
        with console.capture() as capture:
            console.print(status.status(tmp_path))
        return capture.get()

    assert directory.name in shown() and "1 new" in shown()
    directory.update_state(state="failed", error="out of milk")
    assert "1 failed" in shown() and "out of milk" in shown()
    directory.config.write_text(directory.config.read_text().replace("seed: 3", "seed: 4"))
    os.utime(directory.config, ns=(1, 1))
    assert " 4 " in shown() and " 3 " not in shown()


def test_logs_end_and_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = prepare(tmp_path)
    with pytest.raises(UserError, match="no log yet"):
        status.logs(directory, 2, follow=False)
    directory.log.write_text("one\n\ntwo\nthree\n")
    status.logs(directory, 2, follow=True)
    assert capsys.readouterr().out == "two\nthree\n"


def recorded_run(root: Path, *overrides: str, **row: object) -> RunDir:
    """A run that stopped after its last row."""
    directory = prepare(root, *overrides)
    (item,) = plan([overrides])
    config = yaml.safe_load(directory.config.read_text())
    directory.config.write_text(yaml.safe_dump(config | {"choices": dict(item.choices)}))
    full = {"iteration": 10, "samples": 1280, "gpu_hours": 0.5, "device": "cpu"} | row
    directory.metrics.write_text(json.dumps(full) + "\n")
    directory.update_state(state="stopped")
    return directory


def test_hours_are_foretold_from_the_record(tmp_path: Path) -> None:
    own = ("logging.wandb=disabled", "evaluation.samples_per_prompt=2", "checkpoint.every_iterations=2")
    recorded_run(tmp_path, "seed=0")
    recorded_run(
        tmp_path, "seed=5", gpu_hours=1.5, iteration=30, samples=3840
    )  # .05 h an iteration, as above

    def hours(*overrides: str) -> tuple[float | None, bool]:
        (item,) = plan([(*own, f"paths.runs={tmp_path}", *overrides)])
        assert isinstance(item, Run)
        told, measured = look_back(tmp_path).hours(item)
        return None if told is None else round(told, 9), measured

    assert hours("seed=1", "budget.iterations=40") == (2.0, True)
    assert hours("seed=1", "budget.iterations=null", "budget.samples=12800") == (5.0, True)
    assert hours("seed=1", "budget.iterations=40", "budget.gpu_hours=0.7") == (0.7, True)
    assert hours("seed=0") == (4.5, True)  # 100 iterations, of which it has 10
    assert hours("objective=pepg", "batch.prompts=16") == (10.0, False)  # twice the samples of this policy
    assert hours("policy=shapes") == (None, False)
    assert hours("policy=shapes", "budget.gpu_hours=3") == (3.0, False)


def test_a_sweep_over_its_hours_is_refused(tmp_path: Path) -> None:
    recorded_run(tmp_path, "seed=9")

    def runs_of(*overrides: str) -> list[Run]:
        cells = [(f"paths.runs={tmp_path}", f"seed={seed}", *overrides) for seed in (0, 1)]
        return [item for item in plan(cells) if isinstance(item, Run)]

    guard(runs_of())
    guard(runs_of("budget.sweep_gpu_hours=10"))  # two runs of 5 hours
    with pytest.raises(UserError, match="2 runs need 10 GPU-hours by the record, more than .* = 9.9"):
        guard(runs_of("budget.sweep_gpu_hours=9.9"))
    with pytest.raises(UserError, match="cannot be kept: nothing like 2 of 2 runs"):
        guard(runs_of("budget.sweep_gpu_hours=10", "policy=shapes"))
    names = [{run.signature for run in runs_of(*own)} for own in ((), ("budget.sweep_gpu_hours=10",))]
    assert names[0] == names[1]


def test_a_run_goes_on_on_its_own_kind_of_device(tmp_path: Path) -> None:
    directory = prepare(tmp_path, "budget.iterations=2")
    directory.metrics.write_text(json.dumps({"iteration": 1, "gpu_hours": 0.25, "device": "NVIDIA X"}) + "\n")
    with pytest.raises(UserError, match="began on 'NVIDIA X' and this is 'cpu'.*resources.any_device=true"):
        train(directory)
    assert len(read_rows(directory.metrics)) == 1
    directory.config.write_text(directory.config.read_text().replace("any_device: false", "any_device: true"))
    assert train(directory) == "done"
    assert directory.read_state()["wasted_hours"] == 0.25  # a row without its checkpoint has to be run again
    assert [row["device"] for row in read_rows(directory.metrics)] == ["cpu", "cpu"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = prepare(tmp_path)
    directory.update_state(state="running")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="could not write .*state.json: No space left on device"):
        directory.update_state(state="done")
    assert directory.read_state() == {"state": "running"}
    assert not list(directory.root.glob(".state.json.*"))
