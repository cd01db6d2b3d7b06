"""What became of the runs: their states, and an end to those that still run. No torch."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir
from runners import view
from runners.compose import did_you_mean

AXES = ("objective", "estimator", "sampler", "policy")
UNSHOWN = ("paths", "resources")


def state_of(directory: RunDir) -> str:
    """live, done, failed, stopped, dead (it ran, and was killed), or new."""
    if directory.is_live():
        return "live"
    state = str(directory.read_state().get("state", "new"))
    return "dead" if state == "running" else state


def directories(runs: Path) -> list[RunDir]:
    """Every run below a folder, by name.

    Raises:
        UserError: there is no such folder.
    """
    if not runs.is_dir():
        raise UserError(f"there is no {runs}; start a run first, or name its folder with --runs or $RUNS_DIR")
    return [RunDir(path.parent) for path in sorted(runs.glob("*/config.yaml"))]


def status(runs: Path) -> Table:
    """One line per run; of the config groups, the axes and what differs between the runs."""
    found = directories(runs)
    configs = [directory.read_config() for directory in found]
    groups = _telling([config.get("choices", {}) for config in configs])
    columns = ("run", "state", *groups, "seed", "iteration", "reward", "device_h", "idle", "note")
    rows = []
    for directory, config in zip(found, configs, strict=True):
        choices = config.get("choices", {})
        chosen = [str(choices.get(group, "-")) for group in groups]
        progress = view.numbers(directory, config["budget"])
        state, error = state_of(directory), directory.read_state().get("error")
        note = str(error) if error and state == "failed" else ""
        rows.append(
            (directory.name, state, *chosen, str(config["seed"]), *progress, view.idle(directory), note)
        )
    return view.table(f"{len(rows)} runs in {runs}", columns, rows)


def _telling(choices: Sequence[dict[str, str]]) -> list[str]:
    """The axes, then groups in which runs differ, but for those that differ together with a listed one."""
    columns = {
        group: tuple(chosen.get(group) for chosen in choices) for chosen in choices for group in chosen
    }
    shown = [axis for axis in AXES if axis in columns]
    for group, column in columns.items():
        alike = any(columns[other] == column for other in shown)
        if group not in UNSHOWN and len(set(column)) > 1 and not alike:
            shown.append(group)
    return shown


def cancel(runs: Path, name: str) -> str:
    """Ask a live run to save and end; it resumes when it is submitted again.

    Raises:
        UserError: there is no such run, it does not run, or it runs on another machine.
    """
    directory = RunDir(runs / name)
    if not directory.config.exists():
        names = [known.name for known in directories(runs)]
        raise UserError(f"there is no run '{name}' in {runs}{did_you_mean(name, names)}")
    if not directory.is_live():
        raise UserError(f"{directory.root} does not run: it is {state_of(directory)}")
    state = directory.read_state()
    if state.get("host") != socket.gethostname():
        raise UserError(f"{directory.root} runs on {state.get('host')}; cancel it there")
    os.kill(int(state["pid"]), signal.SIGTERM)
    return f"{directory.root}: asked process {state['pid']} to save and stop"
