"""Runs from a W&B server, a public project or one's own: ``wandb:entity/project``, or one run of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ablate.contract.errors import UserError
from ablate.contract.rundir import Row
from analysis.record import RunRecord
from analysis.sources.wandb_file import record_of

PREFIX: Final = "wandb:"
STATES: Final = {"finished": "done", "running": "running"}


def read_project(path: str, api: Any = None) -> list[RunRecord]:
    """Every run of a project, or one run, by ``scan_history``: ``history`` would give a sample of the rows.

    Args:
        path: entity/project or entity/project/run.   api: what to ask; None logs in to W&B.

    Raises:
        UserError: the path has another form, there is nothing there, or the server cannot be reached.
    """
    parts = [part for part in path.split("/") if part]
    if len(parts) not in (2, 3):
        raise UserError(f"runs={PREFIX}{path}: give {PREFIX}entity/project or {PREFIX}entity/project/run")
    import wandb  # half a second, paid only by those who ask a server

    try:
        server = api if api is not None else wandb.Api(timeout=30)
        found = [server.run("/".join(parts))] if len(parts) == 3 else list(server.runs("/".join(parts)))
        records = [_record(run) for run in found]
    except wandb.errors.Error as error:
        told = str(error).splitlines()[0]
        raise UserError(f"runs={PREFIX}{path}: W&B says {told}; check the path and your login") from error
    if not records:
        raise UserError(f"runs={PREFIX}{path} has no runs")
    return sorted(records, key=lambda record: record.signature)


def _record(run: Any) -> RunRecord:
    rows = (_nested(row) for row in run.scan_history(page_size=1000))
    return record_of(str(run.id), dict(run.config), rows, STATES.get(str(run.state), "failed"))


def _nested(row: Mapping[str, Any]) -> Row:
    """A row as it was logged: the server writes {"values": {"strict": …}} as "values.strict"."""
    found: Row = {}
    for key, value in row.items():
        if value is None:
            continue
        first, dot, rest = key.partition(".")
        if dot and first == "values":
            found.setdefault(first, {})[rest] = value
        else:
            found[key] = value
    return found
