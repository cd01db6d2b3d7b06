"""The launcher ``slurm`` on a real SLURM: two nodes with four fake GPUs each, on this host."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing
from commands import ROOT, command, environment, runs, start, until
from running import finish as train
from running import outcome, prepare, same

from ablate.contract.rundir import RunDir, read_rows

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "SLURM is here"),
]
TINY = ("logging.wandb=disabled", "evaluation.samples_per_prompt=2", "checkpoint.every_iterations=2")
ON_SLURM = (
    *("-m", "hydra/launcher=slurm", "resources=slurm", "resources.gpus=0", "resources.threads=1"),
    *("resources.slurm.minutes=10", "resources.slurm.lead_s=60", *TINY),
)
ONE_GPU = 'resources.slurm.options=["--gres=gpu:1"]'  # counted by SLURM; the run itself is on the CPU


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    ours = Cluster(tmp_path_factory.mktemp("slurm"))
    before = {name: os.environ.get(name) for name in ours.environment}
    os.environ.update(ours.environment)
    ours.up()
    yield ours
    ours.down()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def number(directory: RunDir) -> str:
    return str(json.loads(directory.job.read_text())["job"])


def events(directory: RunDir) -> list[str]:
    return [row["event"] for row in read_rows(directory.attempts)]


def saved(directory: RunDir) -> bool:
    return directory.checkpoint.exists() and directory.read_state().get("state") == "running"


def hurry(cluster: Cluster) -> None:
    """A job queued again would wait two minutes."""
    for line in cluster.ask("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i|%r").splitlines():
        job, reason = line.split("|")
        if reason == "BeginTime":
            cluster.ask("scontrol", "update", f"jobid={job}", "StartTime=now")


def all_end(cluster: Cluster, seconds: float = 170.0) -> None:
    def empty() -> bool:
        hurry(cluster)
        time.sleep(0.5)
        return not cluster.ask("squeue", "-h").strip()

    until(empty, seconds)


def test_a_grid_outlives_its_shell_preemption_and_the_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    line = (*ON_SLURM, ONE_GPU, "resources.slurm.throttle=4", "estimator=elbo,elbo_single", "sampler=ode,sde")
    line = (*line, "seed=0,1,2", "budget.iterations=20")
    shell = start(tmp_path, "ablate", *line)
    until(lambda: len(list((tmp_path / "runs" / ".slurm").glob("*/runs.txt"))) == 1)
    until(lambda: len(runs(tmp_path)) == 12 and all("_" in json.dumps(number_of(d)) for d in runs(tmp_path)))
    shell.kill()
    shell.wait()

    limited, *preempted = stop_three(tmp_path)
    for directory in preempted:  # as a preempting partition does it: SIGCONT, SIGTERM, and back to the queue
        assert cluster.ask("scontrol", "requeue", number(directory)) == ""
    elapsed = cluster.ask("squeue", "-h", "-j", number(limited), "-o", "%M").strip()
    minutes, seconds = (int(word) for word in elapsed.split(":"))
    cluster.ask("scontrol", "update", f"jobid={number(limited)}", f"TimeLimit={minutes + 1 + (seconds > 25)}")

    code, out, err = command(tmp_path, "ablate", *line)
    assert code == 0 and "submitted" not in out, err  # whatever each is doing, all are on their way
    until(lambda: "warned" in events(limited))
    os.kill(limited.read_state()["pid"], signal.SIGCONT)
    all_end(cluster)

    for directory in runs(tmp_path):
        assert directory.read_state()["state"] == "done", directory.log.read_text()
        assert [row["iteration"] for row in read_rows(directory.metrics)] == list(range(1, 21))
    assert events(limited) == ["began", "warned", "ended", "began", "ended"]
    assert read_rows(limited.attempts)[3]["restart"] == 1
    for directory in preempted:
        assert events(directory).count("began") == 2 and "warned" not in events(directory)
    for directory in (limited, *preempted):
        whole = prepare(tmp_path / "unbroken", *TINY, *own_words(directory))
        assert whole.name == directory.name
        train(whole)
        assert same(outcome(directory), outcome(whole))

    batches = sorted((tmp_path / "runs" / ".slurm").glob("*/runs.txt"))
    code, out, err = command(tmp_path, "ablate", *line)
    assert code == 0 and "12 runs: 12 done before" in out and "submitted" not in out, err
    assert sorted((tmp_path / "runs" / ".slurm").glob("*/runs.txt")) == batches and len(batches) == 1


def number_of(directory: RunDir) -> dict[str, str]:
    return dict(json.loads(directory.job.read_text())) if directory.job.exists() else {}


def own_words(directory: RunDir) -> list[str]:
    """What this cell said beside what all of them did."""
    words = directory.overrides.read_text().split()
    return [word for word in words if word.startswith(("estimator", "sampler", "seed", "budget"))]


def stop_three(folder: Path) -> list[RunDir]:
    """Freeze three runs that have saved, so that none can finish before its fate is met."""
    caught: list[RunDir] = []

    def enough() -> bool:
        for directory in runs(folder):
            if len(caught) < 3 and directory not in caught and saved(directory):
                os.kill(directory.read_state()["pid"], signal.SIGSTOP)
                caught.append(directory)
        return len(caught) == 3

    until(enough)
    return caught


def test_a_submission_that_dies_before_it_notes_the_number(cluster: Cluster, tmp_path: Path) -> None:
    line = (*ON_SLURM, 'resources.slurm.options=["--hold"]', "seed=0,1")
    code, out, err = command(tmp_path, "ablate", *line)
    assert code == 0 and "2 runs: 2 start" in out, err
    for directory in runs(tmp_path):
        kept = json.loads(directory.job.read_text())
        del kept["job"]
        directory.job.write_text(json.dumps(kept))
    code, out, err = command(tmp_path, "ablate", *line)
    assert code == 0 and "2 runs: 2 already queued" in out and "submitted" not in out, err
    cluster.ask("scancel", "-u", "root") if os.geteuid() == 0 else cluster.ask("scancel", "--me")


def test_what_was_submitted_runs_whatever_is_edited_meanwhile(cluster: Cluster, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("ablate", "runners", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    line = (*ON_SLURM, 'resources.slurm.options=["--hold"]', "budget.iterations=2")
    own = environment(tmp_path) | {"PYTHONPATH": str(source)}
    told = subprocess.run(
        [sys.executable, "-m", "ablate", *line], env=own, cwd=source, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    (directory,) = runs(tmp_path)
    (source / "ablate" / "loop.py").write_text("raise RuntimeError('edited meanwhile')\n")
    (source / "conf" / "train.yaml").write_text("broken: [\n")
    assert cluster.ask("scontrol", "release", number(directory)) == ""
    all_end(cluster)
    assert directory.read_state()["state"] == "done", directory.log.read_text()
    assert len(list((tmp_path / "runs" / ".code").iterdir())) == 1


def test_two_nodes_train_together(cluster: Cluster, tmp_path: Path) -> None:
    wide = ("resources.processes=2", "resources.slurm.nodes=2", "batch.micro=64", "budget.iterations=2")
    code, _, err = command(tmp_path, "ablate", *ON_SLURM, *wide)
    assert code == 0, err
    (directory,) = runs(tmp_path)
    all_end(cluster)
    assert directory.read_state()["state"] == "done", directory.log.read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resources.slurm.partition=nowhere"], ["resources.slurm.partition = nowhere", "sinfo"]),
        (['resources.slurm.options=["--gres=gpu:9"]'], ["sbatch", "not available"]),
        (["resources.slurm.lead_s=600"], ["resources.slurm.lead_s = 600"]),
        (
            ["resources.processes=2", "batch.micro=64", "resources.slurm.nodes=3"],
            ["resources.processes = 2", "nodes = 3"],
        ),
        (["resources=cpu"], ["slurm section", "resources=slurm"]),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_queued(
    cluster: Cluster, tmp_path: Path, words: list[str], told: list[str]
) -> None:
    own = [word for word in ON_SLURM if not (words == ["resources=cpu"] and word.startswith("resources"))]
    code, out, err = command(tmp_path, "ablate", *own, *words)
    assert code == 1 and len(err.splitlines()) == 1 and all(word in err for word in told), err
    assert not any(directory.job.exists() for directory in runs(tmp_path)), out
    assert cluster.ask("squeue", "-h") == ""
