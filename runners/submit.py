"""What a submission leaves on disk: each run's config and code, and the record of its grid. No torch."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import cache
from importlib import metadata
from pathlib import Path

import yaml

from ablate.contract.rundir import write_text
from runners import freeze, queue
from runners.plan import Overrides, Refused, Run, sweep_names

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "hydra-core",
    "omegaconf",
    "numpy",
    "wandb",
)


class Fate(Enum):
    """What submitting a run means, told from its directory, and from SLURM's queue if it was ever there."""

    START = "start"
    RESUME = "resume"
    DONE = "done before"
    QUEUED = "already queued"
    LIVE = "already running"

    @property
    def starts(self) -> bool:
        """True if there is something left to do, and nobody does it."""
        return self in (Fate.START, Fate.RESUME)


def fate(run: Run) -> Fate:
    """Done is skipped, live or queued is left alone, dead or failed goes on from its checkpoint."""
    directory = run.directory
    if directory.is_live():
        return Fate.LIVE
    state = directory.read_state()
    if state.get("state") == "done":
        return Fate.DONE
    job = queue.job_of(directory)
    if job is not None and job.active:
        return Fate.LIVE if job.running else Fate.QUEUED
    return Fate.RESUME if state else Fate.START


def snapshot(run: Run) -> None:
    """Write what the trainer reads and keep what it imports: later edits do not touch the run."""
    directory = run.directory
    freeze.store(directory.root.parent)
    config = {**run.config, "choices": dict(run.choices)}
    write_text(directory.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    name(run)
    known = directory.commit.read_text() if directory.commit.exists() else ""
    if not known.endswith(version()):
        write_text(directory.commit, known + version())


def name(run: Run) -> None:
    """Append the command lines that are not yet listed for this run."""
    path = run.directory.overrides
    listed = path.read_text().splitlines() if path.exists() else []
    unseen = [line for line in map(" ".join, run.asked) if line not in listed]
    if unseen:
        write_text(path, "\n".join([*listed, *unseen]) + "\n")


@cache
def version() -> str:
    """The code's commit, whether it was edited since, and the versions of what it stands on."""
    commit = freeze.git("rev-parse", "HEAD") or "unknown"
    edited = freeze.git("status", "--porcelain", "--untracked-files=no")
    dirty = bool(edited) if commit != "unknown" else None
    lines = [f"commit: {commit}", f"dirty: {json.dumps(dirty)}"]
    lines += [f"{package}: {_installed(package)}" for package in PACKAGES]
    return "\n".join([*lines, f"code: {freeze.digest()}"]) + "\n"


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def record(asked: Sequence[str], items: Sequence[Run | Refused]) -> None:
    """Write runs/.sweeps/<name>.json: what was asked, what runs where, and what was refused and why.

    Refusals are kept: the report of an ablation says which cells cannot exist. Asking again changes nothing.
    """
    if not items:
        return
    title = "+".join(sweep_names(asked)) or hashlib.sha256("\n".join(sorted(asked)).encode()).hexdigest()[:8]
    path = Path(str(items[0].config["paths"]["runs"])) / ".sweeps" / f"{title.replace('/', '.')}.json"
    fresh = {"name": title, "asked": list(asked), "cells": [cell for item in items for cell in _rows(item)]}
    before = json.loads(path.read_text()) if path.exists() else {}
    if {key: before.get(key) for key in fresh} != fresh:
        write_text(path, json.dumps({**fresh, "created": time.time()}, indent=1) + "\n")


def _rows(item: Run | Refused) -> Iterator[dict[str, object]]:
    asked: tuple[Overrides, ...] = item.asked if isinstance(item, Run) else (item.overrides,)
    signature = item.signature if isinstance(item, Run) else None
    reasons = [] if isinstance(item, Run) else list(item.reasons)
    for overrides in asked:
        yield {
            "overrides": list(overrides),
            "signature": signature,
            "refused": reasons,
            "choices": dict(item.choices),
        }
