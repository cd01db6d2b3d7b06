"""What is done to recorded runs: cancel, retry, collect, sync. No torch."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir
from runners import equal, local, queue, sbatch, slurm
from runners.machine import this_machine
from runners.plan import Run
from runners.status import directories, named, state_of
from runners.submit import Fate

UNFINISHED = ("failed", "dead", "stopped")
SKIPPED = ("checkpoints", "wandb", "lock", "job.json", "job.sh")  # what only the place of the run needs


def cancel(runs: Path, name: str) -> str:
    """Ask a live run to save and end, or take it from the queue; it goes on when it is submitted again.

    Raises:
        UserError: there is no such run, it does not run, or it runs on another machine.
    """
    directory = named(runs, name)
    job = queue.job_of(directory)
    if job is not None and job.active:
        queue.slurm("scancel", job.number)
        return f"{directory.root}: cancelled job {job.number}"
    if not directory.is_live():
        raise UserError(f"{directory.root} does not run: it is {state_of(directory)}")
    state = directory.read_state()
    if state.get("host") != socket.gethostname():
        raise UserError(f"{directory.root} runs on {state.get('host')}; cancel it there")
    os.kill(int(state["pid"]), signal.SIGTERM)
    return f"{directory.root}: asked process {state['pid']} to save and stop"


def retry(runs: Path, names: Sequence[str], out: Console) -> bool:
    """Go on with failed, dead and stopped runs, from their own config and code; True if none fails here.

    A run that was submitted to SLURM goes there again, the others run here.

    Raises:
        UserError: a named run is done or on its way, or SLURM refuses.
    """
    chosen = [named(runs, name) for name in names] if names else directories(runs)
    states = [(directory, state_of(directory)) for directory in chosen]
    for directory, state in states:
        if names and state not in (*UNFINISHED, "new"):
            raise UserError(f"{directory.root} is {state}; there is nothing to retry")
    again = [directory for directory, state in states if state in UNFINISHED or names]
    there = [directory for directory in again if queue.recorded(directory)]
    here = [_job(directory) for directory in again if directory not in there]
    if not again:
        out.print(f"nothing to retry in {runs}: no run is {', '.join(UNFINISHED)}")
    if there:
        for directory in there:
            sbatch.check(directory.read_config()["resources"])
        with slurm.one_at_a_time(runs):
            slurm.hand_over([each for each in there if state_of(each) not in ("live", "queued")], out)
    machine = this_machine()
    for job in here:
        machine.check(job.run.config["resources"])
    return not local.attend(here, machine, out, equal.watch([], 0, out))


def _job(directory: RunDir) -> local.Job:
    """A run of today from a directory of then; its snapshot stays as it is."""
    config = directory.read_config()
    choices = config.pop("choices", {})
    config["paths"] = {"runs": str(directory.root.parent)}  # the folder may have moved since
    listed = directory.overrides.read_text().splitlines() if directory.overrides.exists() else []
    words = tuple(listed[0].split()) if listed else ()
    run = Run(words, directory.name, config, choices, (words,))
    return local.Job(run, " ".join(words) or "(default)", Fate.RESUME)


def collect(source: str, runs: Path, everything: bool) -> str:
    """Bring run directories home, from a folder or from ``host:folder`` with rsync; what is here is updated.

    Raises:
        UserError: the source is not there, or rsync is missing or fails.
    """
    skipped = () if everything else SKIPPED
    runs.mkdir(parents=True, exist_ok=True)
    if ":" in source and not Path(source).exists():
        rules = [f"--exclude={name}" for name in (*skipped, ".code", ".slurm", ".hydra")]
        try:
            told = subprocess.run(["rsync", "-a", *rules, f"{source}/", f"{runs}/"], stderr=subprocess.PIPE)
        except FileNotFoundError as error:
            raise UserError(
                "there is no rsync on the PATH; install it, or copy the folder yourself"
            ) from error
        if told.returncode:
            last = told.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(f"rsync from {source}: {last[0] if last else told.returncode}")
        return f"{runs}: updated from {source}"
    found = directories(Path(source))
    for directory in found:
        for path in directory.root.rglob("*"):
            inner = path.relative_to(directory.root)
            if path.is_file() and inner.parts[0] not in skipped:
                _copy(path, runs / directory.name / inner)
    for path in Path(source).glob(".sweeps/*.json"):
        _copy(path, runs / ".sweeps" / path.name)
    return f"{runs}: {len(found)} runs from {source}"


def _copy(path: Path, target: Path) -> None:
    known = target.stat() if target.exists() else None
    if known is None or (known.st_mtime, known.st_size) != (path.stat().st_mtime, path.stat().st_size):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def sync(runs: Path) -> str:
    """Push the offline W&B files of all runs that do not run; those pushed before are skipped by W&B's marks.

    Raises:
        UserError: W&B refuses, or cannot be reached; what was pushed stays pushed.
    """
    pushed = 0
    for directory in directories(runs):
        folders = [] if directory.is_live() else sorted(directory.root.glob("wandb/offline-run-*"))
        for folder in folders:
            if any(folder.glob("*.wandb.synced")):
                continue
            command = [sys.executable, "-m", "wandb", "sync", "--id", directory.name, "--append", str(folder)]
            told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if told.returncode:
                last = told.stdout.strip().splitlines()
                raise UserError(f"wandb sync {folder}: {last[-1] if last else told.returncode}")
            pushed += 1
    return f"{pushed} offline records pushed to W&B"
