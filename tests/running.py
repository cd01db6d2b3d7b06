"""Run directories for tests: composed like a user's, trained by the real trainer, here or in a child."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ablate import checkpoint
from ablate.contract import keys
from ablate.contract.rundir import RunDir, read_rows, signature
from ablate.train import run

CONF = Path(__file__).parent.parent / "conf"
TINY = ("logging.wandb=disabled", "evaluation.samples_per_prompt=2", "checkpoint.every_iterations=2")


@cache
def config(*overrides: str) -> dict[str, Any]:
    """The resolved config of one run, as the planner would snapshot it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", overrides=list(overrides), return_hydra_config=True)
    resolved = OmegaConf.to_container(
        OmegaConf.masked_copy(composed, [k for k in composed if k != "hydra"]), resolve=True
    )
    assert isinstance(resolved, dict)
    return resolved | {"choices": {}}


def prepare(root: Path, *overrides: str) -> RunDir:
    """A fresh run directory below ``root``."""
    resolved = config(*TINY, *overrides)
    directory = RunDir(root / signature(resolved))
    directory.root.mkdir(parents=True, exist_ok=True)
    directory.config.write_text(yaml.safe_dump(resolved))
    return directory


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process (torch is imported already) and return the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        torch.set_num_threads(1)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        work()
        code = 0
    finally:
        os._exit(code)


def wait(pid: int, seconds: float = 120.0) -> int:
    """The child's exit status (negative: the signal); kills it if it takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"child {pid} took longer than {seconds} s")


def finish(directory: RunDir) -> None:
    """Train to the end in a child, as the same command would."""
    assert wait(in_child(lambda: run(directory))) == 0


def outcome(directory: RunDir) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """Checkpoint without its clock, and both records without wall times: what must repeat to the bit."""
    state = checkpoint.load(directory.checkpoint)
    state["progress"].pop("gpu_hours")
    return state, timeless(read_rows(directory.metrics)), timeless(read_rows(directory.evals))


def timeless(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(keys.WALL_FIELDS)} for row in rows
    ]


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, through nested containers."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
