"""Thirty faults over eight runs: no row is lost or doubled, no bit differs, and no hour goes unaccounted."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running import finish, in_child, outcome, prepare, same, wait

from ablate import checkpoint
from ablate.contract import keys
from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir, last_row, read_rows
from ablate.train import run

FAULTS = 30
PARTS = (("objective=epg", "sampler=ode"), ("objective=grpo", "estimator=trajectory", "sampler=sde"))
CELLS = [(*parts, f"seed={seed}", "budget.iterations=10") for parts in PARTS for seed in range(4)]


def killed(directory: RunDir, pause: float) -> None:
    pid = in_child(lambda: run(directory))
    time.sleep(pause)
    os.kill(pid, signal.SIGKILL)
    assert wait(pid) in (-signal.SIGKILL, 0)


def asked_to_stop(directory: RunDir, pause: float) -> None:
    pid = in_child(lambda: run(directory))
    time.sleep(pause)
    os.kill(pid, signal.SIGUSR1)
    assert wait(pid) in (-signal.SIGUSR1, 0)  # the signal itself, before there was anything to save


def frozen(directory: RunDir, pause: float) -> None:
    """A process that stands still holds its run: nobody else gets in, and nothing is lost when it dies."""
    pid = in_child(lambda: run(directory))
    time.sleep(pause)
    os.kill(pid, signal.SIGSTOP)
    if directory.is_live():
        with pytest.raises(UserError, match="belongs to a live process"):
            run(directory)
    os.kill(pid, signal.SIGKILL)
    os.kill(pid, signal.SIGCONT)
    assert wait(pid) in (-signal.SIGKILL, 0)


def torn(directory: RunDir, pause: float) -> None:
    """Killed in the middle of a row."""
    killed(directory, pause)
    if directory.metrics.exists():
        with directory.metrics.open("a") as handle:
            handle.write('{"iteration": 3, "rew')


def full(directory: RunDir, pause: float) -> None:
    """A disk that fills up after some writes."""

    def doomed() -> None:
        left = [round(pause * 40)]
        whole = os.fsync

        def fsync(handle: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            whole(handle)

        os.fsync = fsync  # type: ignore[assignment]
        run(directory)

    assert wait(in_child(doomed)) in (0, 1)


KINDS: tuple[Callable[[RunDir, float], None], ...] = (killed, asked_to_stop, frozen, torn, full)


@pytest.mark.slow
def test_thirty_faults(tmp_path: Path) -> None:
    chance = random.Random(0)
    runs = [prepare(tmp_path / "broken", *cell) for cell in CELLS]
    for number in range(FAULTS):
        directory = runs[number % len(runs)]
        before, lost = directory.read_state().get("wasted_hours", 0.0), _unsaved(directory)
        KINDS[number % len(KINDS)](directory, chance.uniform(0.05, 1.0))
        assert not directory.is_live()
        added = directory.read_state().get("wasted_hours", 0.0) - before
        assert added == 0 or added == pytest.approx(lost, abs=1e-12)
    for directory, cell in zip(runs, CELLS, strict=True):
        finish(directory)
        whole = prepare(tmp_path / "whole", *cell)
        finish(whole)
        assert same(outcome(directory), outcome(whole))
        rows = read_rows(directory.metrics)
        counted = sum(row[keys.time_of(phase)] for row in rows for phase in ("rollout", "reward", "update"))
        assert rows[-1][keys.GPU_HOURS] == pytest.approx(counted / 3600, abs=1e-9)


def _unsaved(directory: RunDir) -> float:
    """Hours of rows after the checkpoint: the next attempt has to run them again."""
    saved = checkpoint.load(directory.checkpoint)["progress"] if directory.checkpoint.exists() else {}
    return max(0.0, float(last_row(directory.metrics).get(keys.GPU_HOURS, 0.0)) - saved.get("gpu_hours", 0.0))
