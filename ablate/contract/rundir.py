"""``runs/<signature>/``: the record of one run, on disk. No torch here.

config.yaml     the resolved config; the run reads this and never composes again
overrides.txt   every command line that asked for this run
commit.txt      code version and package versions at each submission, the last one last
state.json      state, pid, host, iteration, last error line
preflight.json  what was checked before the first update, and what was found
metrics.jsonl   one row per iteration      eval.jsonl   one row per evaluation
images/         sample grids               checkpoints/ latest.ckpt
log.txt         output of the process, when a launcher started it
job.json        the SLURM submission it was last part of
attempts.jsonl  one row per SLURM job that worked on it: waited, ran, how it ended
lock            held by the process that owns the run; the kernel lets go when it dies
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ablate.contract.errors import UserError
from ablate.contract.keys import ITERATION

NOT_IDENTITY = ("resources", "logging", "paths", "sweep", "hydra", "choices", "preflight")
PROMISES = "promises"  # a tag of a part, which cannot change what is learned either
SWEEP_HOURS = "sweep_gpu_hours"  # a budget of the grid, not of a run
Row = dict[str, Any]
_TAILS = (1 << 14, 1 << 20)  # bytes at the end of a file: enough for most last rows, and for any
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is there


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config without the keys that cannot change what is learned."""
    return {key: _unpromised(value) for key, value in config.items() if key not in NOT_IDENTITY}


def _unpromised(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _unpromised(value) for key, value in node.items() if key not in (PROMISES, SWEEP_HOURS)}
    return node


def signature(config: Mapping[str, Any]) -> str:
    """8 hex digits naming a resolved config, without the keys that cannot change what is learned."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class RunDir:
    """Paths of one run, and the only functions that write its record."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def overrides(self) -> Path:
        return self.root / "overrides.txt"

    @property
    def commit(self) -> Path:
        return self.root / "commit.txt"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def preflight(self) -> Path:
        return self.root / "preflight.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def evals(self) -> Path:
        return self.root / "eval.jsonl"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoints" / "latest.ckpt"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def job(self) -> Path:
        return self.root / "job.json"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts.jsonl"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    def read_config(self) -> dict[str, Any]:
        """The resolved config.

        Raises:
            UserError: the file is missing or is not a mapping.
        """
        try:
            config = yaml.load(self.config.read_text(), Loader=_LOADER)
        except FileNotFoundError as error:
            raise UserError(f"{self.root} is no run directory: it has no config.yaml") from error
        except yaml.YAMLError as error:
            raise UserError(f"{self.config} is damaged; remove the run directory and run again") from error
        if not isinstance(config, dict):
            raise UserError(f"{self.config} holds no config; remove the run directory and run again")
        return config

    def read_state(self) -> Row:
        """state.json, or {} before the run first started. ``is_live`` alone tells whether a run lives."""
        try:
            state = json.loads(self.state.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return dict(state)

    def update_state(self, **fields: Any) -> None:
        """Merge fields into state.json, atomically."""
        write_text(self.state, json.dumps(self.read_state() | fields, indent=1, sort_keys=True) + "\n")

    def is_live(self) -> bool:
        """True while some process of this host holds the run."""
        if not self.lock.exists():
            return False
        with self.lock.open("r") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return True
                raise UserError(self._lockless(error)) from error
        return False

    def _lockless(self, error: OSError) -> str:
        cure = "point RUNS_DIR at a file system that has locks"
        return f"{self.root}: its file system cannot lock files ({error.strerror}); {cure}"

    def taken(self) -> str:
        """What to say to somebody who wants a live run."""
        owner = self.read_state()
        where = f"pid {owner.get('pid', '?')} on {owner.get('host', '?')}"
        cure = f"wait for it, or stop it with: python -m runners cancel {self.name}"
        return f"{self.root} belongs to a live process ({where}); {cure}"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the run for the length of the block.

        Raises:
            UserError: a live process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self.lock.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                taken = error.errno in (errno.EAGAIN, errno.EACCES)
                raise UserError(self.taken() if taken else self._lockless(error)) from error
            self.update_state(pid=os.getpid(), host=socket.gethostname(), started=time.time())
            yield


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new one, never half.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(
            f"could not write {path}: {error.strerror}; free some space or mend its permissions, and repeat"
        ) from error


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line and flush it; on failure leave the file as it was.

    Raises:
        UserError: the disk is full or the file cannot be written.
        ValueError: a value is not finite, which JSON cannot say.
    """
    line = (json.dumps(row, sort_keys=True, allow_nan=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as handle:
        size = handle.seek(0, os.SEEK_END)
        try:
            if handle.write(line) != len(line):
                raise OSError(errno.ENOSPC, "short write")
            os.fsync(handle.fileno())
        except OSError as error:
            handle.truncate(size)
            raise UserError(
                f"could not write row {row.get(ITERATION)} to {path}: {error.strerror}; "
                "free some space and repeat the command, the run goes on from its checkpoint"
            ) from error


def read_rows(path: Path) -> list[Row]:
    """All whole rows; a torn last line, left by a kill, is not a row.

    Raises:
        UserError: a line before the last is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    written = [line for line in lines if line]
    try:
        rows = list(json.loads(b"[" + b",".join(written) + b"]"))  # all whole, as they nearly always are
    except ValueError:
        return _whole_rows(path, lines)
    return rows if len(rows) == len(written) else _whole_rows(path, lines)


def _whole_rows(path: Path, lines: list[bytes]) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):  # no newline after it: the write was cut short
                break
            raise UserError(f"{path} line {number} is damaged; restore the file or remove the run") from error
    return rows


def last_row(path: Path) -> Row:
    """The last whole row, read from the end of the file; {} before the first."""
    if not path.exists():
        return {}
    lines: list[bytes] = []
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        for tail in _TAILS:
            handle.seek(max(0, size - tail))
            lines = handle.read().split(b"\n")[:-1]  # what follows the last newline is torn
            if len(lines) > 1 or tail >= size:
                break
    try:
        return dict(json.loads(lines[-1])) if lines else {}
    except ValueError as error:
        raise UserError(f"the last line of {path} is damaged; restore the file or remove the run") from error


def cut_rows(path: Path, iteration: int) -> None:
    """Drop the rows after ``iteration``: on resume they will be written again."""
    if not path.exists():
        return
    kept = [row for row in read_rows(path) if row[ITERATION] <= iteration]
    write_text(path, "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in kept))


def finite(row: Mapping[str, Any]) -> Iterator[str]:
    """Names of the numbers in a row that are not finite."""
    return (key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value))
