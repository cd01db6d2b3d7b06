"""What became of the runs, told from their directories and from SLURM's queue. No torch."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live

from ablate.contract import keys
from ablate.contract.errors import UserError
from ablate.contract.rundir import Row, RunDir
from runners import queue, view
from runners.compose import did_you_mean
from runners.recall import recall

AXES = ("objective", "estimator", "sampler", "policy")
UNSHOWN = ("paths", "resources")
REFRESH_S = 2.0
_LOG_BYTES = 1 << 14


def state_of(directory: RunDir) -> str:
    """live, queued, done, failed, stopped, dead (it ran, and was killed), or new."""
    if directory.is_live():
        return "live"
    state = str(directory.read_state().get("state", "new"))
    if state == "done":
        return state
    job = queue.job_of(directory)
    if job is not None and job.active:
        return "live" if job.running else "queued"
    gone = state == "new" and queue.recorded(directory)  # its job ended before the run began
    return "dead" if state == "running" or gone else state


def directories(runs: Path) -> list[RunDir]:
    """Every run below a folder, by name.

    Raises:
        UserError: there is no such folder.
    """
    if not runs.is_dir():
        raise UserError(f"there is no {runs}; start a run first, or name its folder with --runs or $RUNS_DIR")
    return [RunDir(path.parent) for path in sorted(runs.glob("*/config.yaml"))]


def named(runs: Path, name: str) -> RunDir:
    """The run of that name.

    Raises:
        UserError: there is none.
    """
    directory = RunDir(runs / name)
    if not directory.config.exists():
        names = [known.name for known in directories(runs)]
        raise UserError(f"there is no run '{name}' in {runs}{did_you_mean(name, names)}")
    return directory


def status(runs: Path) -> Group:
    """One line per run; of the config groups, the axes and what differs between the runs."""
    found = directories(runs)
    configs = recall(runs, found)
    states = [state_of(directory) for directory in found]
    groups = _telling([config["choices"] or {} for config in configs])
    columns = ("run", "state", *groups, "seed", "iteration", "reward", "device_h", "eta", "idle", "note")
    rows, hours, wasted = [], 0.0, 0.0
    for directory, config, state in zip(found, configs, states, strict=True):
        record = directory.read_state()
        hours += record.get(keys.GPU_HOURS) or 0.0
        wasted += record.get("wasted_hours") or 0.0
        rows.append(_line(directory, config, state, record, groups))
    counts = ", ".join(f"{number} {state}" for state, number in Counter(states).items())
    lost = f", {wasted:.3g} more wasted" if wasted else ""
    title = f"{len(rows)} runs in {runs}: {counts}; {hours:.3g} device-hours{lost}"
    return Group(title, view.table("", columns, rows))  # a table's own title folds to its width


def _line(directory: RunDir, config: Row, state: str, record: Row, groups: Sequence[str]) -> tuple[str, ...]:
    choices: dict[str, Any] = config["choices"] or {}
    progress = view.numbers(directory, config["budget"])
    eta = view.duration(record.get("eta_s")) if state == "live" else "-"
    chosen = (str(choices.get(group, "-")) for group in groups)
    last = (eta, view.idle(directory), _note(directory, state, record))
    return (directory.name, state, *chosen, str(config["seed"]), *progress, *last)


def _note(directory: RunDir, state: str, record: Row) -> str:
    """Why it failed, died or waits; empty when all is well."""
    if state == "failed":
        return str(record.get("error") or "")
    if state == "queued":
        job = queue.job_of(directory)
        return f"job {job.number}: {job.reason}" if job is not None else ""
    if state != "dead":
        return ""
    number = queue.recorded(directory).get("job")
    job = queue.job_of(directory)
    end = (job.state if job is not None else queue.ending(number)) if number else ""
    told = [f"job {number} {end or 'left the queue'}"] if number else []
    return "; ".join([*told, *tail(directory, 1)])


def tail(directory: RunDir, count: int) -> list[str]:
    """The last lines of a run's log that say something."""
    if not directory.log.exists():
        return []
    with directory.log.open("rb") as handle:
        handle.seek(max(0, directory.log.stat().st_size - _LOG_BYTES * max(1, count // 100)))
        lines = handle.read().decode(errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]


def _telling(choices: Sequence[dict[str, str]]) -> list[str]:
    """The axes, then groups in which runs differ, but for those that differ together with a listed one."""
    groups = dict.fromkeys(group for chosen in choices for group in chosen)
    columns = {group: tuple(chosen.get(group) for chosen in choices) for group in groups}
    shown = [axis for axis in AXES if axis in columns]
    for group, column in columns.items():
        alike = any(columns[other] == column for other in shown)
        if group not in UNSHOWN and len(set(column)) > 1 and not alike:
            shown.append(group)
    return shown


def watch(runs: Path) -> None:
    """The table of ``status``, renewed until no run is live or queued; Ctrl-C ends the view, not the runs."""
    with Live(status(runs), console=view.console(), auto_refresh=False) as live:
        while any(state_of(directory) in ("live", "queued") for directory in directories(runs)):
            time.sleep(REFRESH_S)
            queue.listed.cache_clear()
            live.update(status(runs), refresh=True)


def logs(directory: RunDir, count: int, follow: bool) -> None:
    """Print the end of a run's log, and with ``follow`` what comes until the run ends.

    Raises:
        UserError: no launcher ever started it, so it has no log.
    """
    if not directory.log.exists():
        raise UserError(f"{directory.root} has no log yet: it is {state_of(directory)}")
    with directory.log.open(errors="replace") as handle:
        end = directory.log.stat().st_size
        print("\n".join(tail(directory, count)), flush=True)
        handle.seek(end)
        while follow:
            shutil.copyfileobj(handle, sys.stdout)
            sys.stdout.flush()
            queue.listed.cache_clear()
            follow = state_of(directory) in ("live", "queued")
            time.sleep(REFRESH_S if follow else 0)
        shutil.copyfileobj(handle, sys.stdout)
