"""One SLURM job's share of a run: ``python -m runners.attempt runs/<signature>`` ends every job script.

It starts the trainer, asks it to save before the time limit, and then asks SLURM for another job under the
same number, until the budget is used. Preempted jobs SLURM queues again itself. No torch.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir, append_row, read_rows
from runners import process, queue

Signals = set[signal.Signals]
POLL_S = 0.2
SPARE_S = 15.0  # before the time limit: after it a job cannot be queued again


def attempt(directory: RunDir) -> int:
    """Work on the run until it ends or the job does; returns the job's exit code.

    Raises:
        UserError: this is no run directory.
    """
    resources = directory.read_config()["resources"]
    began, saved = time.time(), _saved(directory)
    _note(directory, "began", waited_s=round(began - _since(directory), 3))
    with _signals() as got, directory.log.open("ab") as log:
        child = subprocess.Popen(
            _command(directory, resources),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | process.threads(resources) | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        limits = resources["slurm"]
        asked = _attend(directory, child, got, began + limits["minutes"] * 60, limits["lead_s"])
    state, code = directory.read_state().get("state"), child.returncode
    again = asked and signal.SIGTERM not in got and state in ("stopped", "running", None)
    _note(directory, "ended", exit_code=code, state=state, again=again)
    if again:
        return _again(directory, saved != _saved(directory))
    return 0 if state == "done" else code if code and code > 0 else 1


def _command(directory: RunDir, resources: Mapping[str, Any]) -> list[str]:
    """The trainer; one process as it is, several under torchrun, several nodes under srun as well."""
    own, processes = resources["slurm"], int(resources["processes"])
    python = [*shlex.split(own["prefix"]), own["python"] or sys.executable]
    if own["nodes"] == 1:
        return process.command(directory, processes, python)
    number = int(os.environ["SLURM_JOB_ID"])
    torchrun = [
        *python,
        *("-m", "torch.distributed.run"),
        f"--nnodes={own['nodes']}",
        f"--nproc-per-node={processes // own['nodes']}",
        f"--master-addr={socket.gethostname()}",  # rank 0 is here, where the warning arrives
        f"--master-port={20000 + number % 20000}",
    ]
    rest = shlex.join(["-m", "ablate.train", str(directory.root)])
    line = f'exec {shlex.join(torchrun)} --node-rank="$SLURM_NODEID" {rest}'
    return ["srun", "--ntasks-per-node=1", "bash", "-c", line]


def _attend(
    directory: RunDir, child: subprocess.Popen[bytes], got: Signals, limit: float, lead_s: float
) -> bool:
    """Wait until the trainer ends, or the job's time does; True if it was asked to save before the limit.

    SLURM warns early, late, or for a limit that somebody lowered: the warning makes us look again.
    """
    asked = warned = False
    while child.poll() is None:
        if not warned and signal.SIGUSR1 in got:
            warned, limit = True, _limit() or time.time() + lead_s
        if not asked and time.time() >= limit - lead_s:
            asked = True
            _note(directory, "warned", left_s=round(limit - time.time(), 3))
            _ask_to_save(directory, child)
        if asked and time.time() > limit - SPARE_S:
            break  # an iteration too long for resources.slurm.lead_s: the last checkpoint has to do
        time.sleep(POLL_S)
    return asked


def _limit() -> float | None:
    """When SLURM ends this job, as a time; None if it does not say."""
    with suppress(UserError, FileNotFoundError, ValueError):
        end = queue.slurm("squeue", "-h", "-j", os.environ["SLURM_JOB_ID"], "-o", "%e").strip()
        return datetime.fromisoformat(end).timestamp()
    return None


def _ask_to_save(directory: RunDir, child: subprocess.Popen[bytes]) -> None:
    """Signal the process that owns the run, wherever srun or a container put it; else what we started."""
    state = directory.read_state()
    with suppress(psutil.Error, KeyError, ValueError):
        owner = psutil.Process(int(state["pid"]))
        if state.get("host") == socket.gethostname() and str(directory.root) in owner.cmdline():
            owner.send_signal(signal.SIGUSR1)
            return
    child.terminate()


def _again(directory: RunDir, progressed: bool) -> int:
    """Queue this job again, under its own number; a run that saves nothing in a whole job would never end."""
    number = os.environ["SLURM_JOB_ID"]
    if not progressed:
        error = "no checkpoint within a whole job; raise resources.slurm.minutes or checkpoint more often"
        directory.update_state(state="failed", error=error)
        return 1
    try:
        queue.slurm("scontrol", "requeue", number)
    except (UserError, FileNotFoundError) as told:
        error = f"the time limit came and the job could not be queued again ({told}); python -m runners retry"
        directory.update_state(state="failed", error=error)
        return 1
    return 0


def _saved(directory: RunDir) -> int:
    return directory.checkpoint.stat().st_mtime_ns if directory.checkpoint.exists() else 0


def _since(directory: RunDir) -> float:
    """When this wait in the queue began: at submission, or when the job last worked."""
    submitted = float(queue.recorded(directory).get("submitted", time.time()))
    ended = [float(row["time"]) for row in read_rows(directory.attempts)]
    return max([submitted, *ended])


def _note(directory: RunDir, event: str, **more: Any) -> None:
    number = os.environ.get("SLURM_ARRAY_JOB_ID", "?") + "_" + os.environ.get("SLURM_ARRAY_TASK_ID", "?")
    node, restart = os.environ.get("SLURMD_NODENAME", "?"), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    row = {"event": event, "time": time.time(), "job": number, "node": node, "restart": restart}
    append_row(directory.attempts, row | more)


@contextmanager
def _signals() -> Iterator[Signals]:
    """Which of its limit and its end SLURM has announced; we outlive both, so that the trainer saves."""
    got: Signals = set()

    def note(number: int, frame: FrameType | None) -> None:
        got.add(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    try:
        sys.exit(attempt(RunDir(Path(sys.argv[1]))))
    except UserError as mistake:
        sys.exit(f"error: {mistake}")
