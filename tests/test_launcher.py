"""The launcher ``local``: one process group per cell, and a command that can be repeated after anything."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from commands import ROOT, TINY, command, finish, runs, start, until

from ablate.contract.rundir import RunDir, read_rows


def last(directory: RunDir) -> int:
    """Iteration of the last row."""
    rows = read_rows(directory.metrics)
    return int(rows[-1]["iteration"]) if rows else 0


def test_a_grid_runs_once_and_refuses_the_rest(tmp_path: Path) -> None:
    line = ("-m", *TINY, "estimator=elbo,trajectory", "sampler=ode,sde", "budget.iterations=2")
    code, out, err = command(tmp_path, "ablate", *line)
    assert code == 0, err
    assert "3 runs: 3 start" in out and "1 refused" in out and "requires 'transition'" in out
    done = runs(tmp_path)
    assert [last(directory) for directory in done] == [2, 2, 2]
    assert len({directory.read_state()["pid"] for directory in done}) == 3
    assert all(directory.log.exists() for directory in done)
    (path,) = (tmp_path / "runs" / ".sweeps").iterdir()
    cells = json.loads(path.read_text())["cells"]
    assert sorted(filter(None, (cell["signature"] for cell in cells))) == [
        directory.name for directory in done
    ]
    assert sum(bool(cell["refused"]) for cell in cells) == 1

    before = [directory.metrics.stat().st_mtime_ns for directory in done]
    code, out, err = command(tmp_path, "ablate", *line)
    assert code == 0 and "3 runs: 3 done before" in out and "started" not in out, err
    assert [directory.metrics.stat().st_mtime_ns for directory in done] == before


def test_a_failed_cell_does_not_stop_the_others(tmp_path: Path) -> None:
    line = (
        "-m",
        *TINY,
        "sampler=sde",
        "sampler.noise_level=-1.0,0.5",
        "budget.iterations=2",
        "resources.slots=1",
    )
    code, out, err = command(tmp_path, "ablate", *line)
    assert code == 1
    (told,) = err.splitlines()
    assert "failed" in told and "noise_level = -1.0" in told
    states = {directory.read_state()["state"]: directory for directory in runs(tmp_path)}
    assert set(states) == {"done", "failed"} and states["failed"].name in told
    assert "1 of 2 ended" in out and "2 of 2 ended" in out


def test_killed_cancelled_and_interrupted_cells_go_on(tmp_path: Path) -> None:
    long = ("budget.iterations=40", "checkpoint.every_iterations=5", "resources.slots=2")
    line = ("-m", *TINY, *long, "seed=0,1")
    launcher = start(tmp_path, "ablate", *line)
    until(lambda: len(runs(tmp_path)) == 2 and all(last(directory) > 5 for directory in runs(tmp_path)))
    killed, cancelled = runs(tmp_path)
    os.kill(killed.read_state()["pid"], signal.SIGKILL)
    code, _, err = command(tmp_path, "runners", "cancel", cancelled.name)
    assert code == 0, err
    code, out, err = finish(launcher)
    assert code == 1 and "SIGKILL" in err and "stopped on request" in err
    assert not any(directory.is_live() or last(directory) == 40 for directory in runs(tmp_path))

    reached = last(killed)
    launcher = start(tmp_path, "ablate", *line)
    until(lambda: killed.is_live() and killed.read_state()["pid"] != launcher.pid and last(killed) > reached)
    launcher.send_signal(signal.SIGTERM)
    code, out, err = finish(launcher)
    assert code == 130 and "repeat the same command" in err and "2 resume" in out
    assert not any(directory.is_live() for directory in runs(tmp_path))

    code, out, err = command(tmp_path, "ablate", *line)
    assert code == 0, err
    for directory in runs(tmp_path):
        assert [row["iteration"] for row in read_rows(directory.metrics)] == list(range(1, 41))
        assert directory.read_state()["state"] == "done"


def test_a_cell_of_two_processes(tmp_path: Path) -> None:
    code, out, err = command(
        tmp_path, "ablate", "-m", *TINY, "budget.iterations=1", "resources.processes=2", "batch.micro=64"
    )
    assert code == 0, err
    (directory,) = runs(tmp_path)
    assert directory.read_state()["state"] == "done" and last(directory) == 1


def test_a_named_grid_takes_the_launcher_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "more" / "sweep"
    folder.mkdir(parents=True)
    (folder / "probe.yaml").write_text("grid: {estimator: [trajectory]}\n")
    code, out, err = command(tmp_path, "ablate", "--config-dir", str(folder.parent), "+sweep=probe")
    assert code == 0, err
    assert "1 refused" in out and runs(tmp_path) == []
    record = json.loads((tmp_path / "runs" / ".sweeps" / "probe.json").read_text())
    assert record["name"] == "probe" and record["cells"][0]["overrides"] == ["estimator=trajectory"]


def test_a_reader_that_goes_away_leaves_no_run_behind(tmp_path: Path) -> None:
    launcher = start(
        tmp_path, "ablate", "-m", *TINY, "seed=0,1", "budget.iterations=100000", "resources.slots=1"
    )
    assert launcher.stdout is not None and launcher.stderr is not None
    until(lambda: any(directory.read_state() for directory in runs(tmp_path)))
    launcher.stdout.close()
    (directory,) = (directory for directory in runs(tmp_path) if directory.read_state())
    os.kill(directory.read_state()["pid"], signal.SIGKILL)
    told = launcher.stderr.read()
    assert launcher.wait(timeout=60) == 141 and "Traceback" not in told and "repeat the same command" in told
    assert not any(directory.is_live() for directory in runs(tmp_path))


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    code, _, err = command(tmp_path, "ablate", "-m", "seed=0,1", "resources.gpus=1")
    assert code == 1 and len(err.splitlines()) == 1 and "resources.gpus = 1" in err
    assert runs(tmp_path) == [] and (ROOT / "conf").is_dir()
