"""The command line as a user's shell runs it: from another folder, with its own folder of runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ablate.contract.rundir import RunDir

ROOT = Path(__file__).parent.parent
TINY = ("logging.wandb=disabled", "evaluation.samples_per_prompt=2")


def environment(folder: Path) -> dict[str, str]:
    """Ours, with the runs of this test under ``folder``."""
    own = {"RUNS_DIR": str(folder / "runs"), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | own | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "200"}


def start(folder: Path, module: str, *words: str) -> subprocess.Popen[str]:
    """``python -m module words`` in an empty folder below ``folder``."""
    cwd = folder / "cwd"
    cwd.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=cwd,
        env=environment(folder),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def command(folder: Path, module: str, *words: str) -> tuple[int, str, str]:
    """Run to the end; nothing may be left in the folder it was started from."""
    told = finish(start(folder, module, *words))
    assert list((folder / "cwd").iterdir()) == []
    return told


def runs(folder: Path) -> list[RunDir]:
    """The run directories, by name."""
    return [RunDir(path.parent) for path in sorted((folder / "runs").glob("*/config.yaml"))]


def until(ready: Callable[[], bool], seconds: float = 90.0) -> None:
    """Poll until something another process does has happened."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
