"""One run as processes of this machine: its command, its environment, its end. No torch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import psutil

from ablate.contract.rundir import RunDir
from runners import freeze

PATIENCE_S = 60.0  # between asking a run to stop and killing it: it ends its iteration and saves first
PAUSE_S = 0.1


def command(directory: RunDir, processes: int, python: Sequence[str] = (sys.executable,)) -> list[str]:
    """The trainer on a run directory; under torchrun when it needs several processes."""
    trainer = ["-m", "ablate.train", str(directory.root)]
    if processes == 1:
        return [*python, *trainer]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*python, *torchrun, *trainer]


def threads(resources: Mapping[str, Any]) -> dict[str, str]:
    """What must stand in the environment before torch loads: spinning threads slow busy cores tenfold."""
    return {"OMP_NUM_THREADS": str(resources["threads"]), "OMP_WAIT_POLICY": "PASSIVE"}


def start(directory: RunDir, resources: Mapping[str, Any], gpus: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own, its output appended to log.txt."""
    own = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "PYTHONUNBUFFERED": "1"}
    frozen = freeze.environment(freeze.code_of(directory))
    with directory.log.open("ab") as log:
        return subprocess.Popen(
            command(directory, int(resources["processes"])),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | threads(resources) | own | frozen,
            start_new_session=True,
        )


def attend(directory: RunDir, resources: Mapping[str, Any]) -> int:
    """Run in the foreground until it ends; returns its exit code. Ctrl-C and SIGTERM let it save first."""
    child = subprocess.Popen(
        command(directory, int(resources["processes"])),
        env=os.environ | threads(resources) | freeze.environment(freeze.code_of(directory)),
        start_new_session=True,
    )
    with interruptible():
        try:
            return child.wait()
        except KeyboardInterrupt:
            end([child])
            return 130


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block SIGTERM does what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def end(processes: Sequence[subprocess.Popen[bytes]], patience_s: float = PATIENCE_S) -> None:
    """Ask these runs to stop, wait, then kill what is left of them; a second Ctrl-C cuts the wait short."""
    families = [member for process in processes for member in _family(process.pid)]
    for process in processes:
        _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    with contextlib.suppress(KeyboardInterrupt):
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
    for process in processes:
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGKILL)
    for member in families:  # torchrun gives its workers sessions of their own
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    for process in processes:
        process.wait()


def _family(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        yield from psutil.Process(pid).children(recursive=True)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
