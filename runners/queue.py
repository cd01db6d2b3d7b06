"""What SLURM says of our jobs. The queue and the run directories are the truth; nothing else is kept.

A submission names its jobs ``ablate-<batch>``, and a run's job.json says which batch, and which task of its
array, the run is. So a job is found even if the submitting shell died before it noted its number. No torch.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir

NAME = "ablate-"
ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
)
_COLUMNS = "%j|%K|%i|%T|%r"


@dataclass(frozen=True)
class Job:
    """One task of an array, as squeue shows it."""

    number: str
    state: str
    reason: str

    @property
    def active(self) -> bool:
        """It runs, or will without anybody's doing."""
        return self.state not in ENDED

    @property
    def running(self) -> bool:
        """It has begun."""
        return self.active and self.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def recorded(directory: RunDir) -> Mapping[str, Any]:
    """The run's job.json: batch, index, and job once SLURM has numbered it; {} if it was never submitted."""
    try:
        return dict(json.loads(directory.job.read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def job_of(directory: RunDir) -> Job | None:
    """The run's job while SLURM remembers it: some minutes after its end.

    Raises:
        UserError: SLURM does not answer, so nobody can say whether the run is queued.
    """
    own = recorded(directory)
    return listed().get((own["batch"], own["index"])) if own else None


@cache
def listed() -> Mapping[tuple[str, int], Job]:
    """Our jobs by batch and index, asked once per process; ``listed.cache_clear()`` asks anew.

    Empty where there is no squeue: then no job of this machine can be queued.

    Raises:
        UserError: squeue fails.
    """
    try:
        out = slurm("squeue", "--me", "-h", "-r", "-t", "all", "-o", _COLUMNS)
    except FileNotFoundError:
        return {}
    found = {}
    for line in out.splitlines():
        name, index, number, state, reason = line.split("|", 4)
        if name.startswith(NAME) and index.isdigit():
            found[name.removeprefix(NAME), int(index)] = Job(number, state, reason)
    return found


def slurm(*words: str) -> str:
    """Output of a SLURM command.

    Raises:
        UserError: it fails or does not answer; its last line is quoted.
        FileNotFoundError: it is not installed.
    """
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{words[0]} does not answer; try again when the cluster does") from error
    if told.returncode:
        lines = [line.strip() for line in told.stderr.splitlines() if line.strip()]
        last = lines[-1].removeprefix(f"{words[0]}: ") if lines else f"exit code {told.returncode}"
        raise UserError(f"{words[0]}: {last.removeprefix('error: ')}")
    return told.stdout


def ending(number: str) -> str:
    """How a job ended that squeue has forgotten, from accounting; empty where there is none."""
    try:
        lines = slurm("sacct", "-X", "-n", "-P", "-j", number, "-o", "State").splitlines()
    except (UserError, FileNotFoundError):
        return ""
    return lines[-1].strip() if lines else ""
