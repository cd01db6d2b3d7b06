"""Runs from their directories, ``runs/<signature>/``: the record that other sources must equal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir, read_rows
from analysis.record import RunRecord


def run_roots(runs: Path) -> list[Path]:
    """The run directories in a folder, by name.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not runs.is_dir():
        raise UserError(f"there is no folder {runs}; name one with runs=<folder>, or run a grid first")
    roots = sorted(path for path in runs.iterdir() if (path / "config.yaml").is_file())
    if not roots:
        raise UserError(
            f"{runs} holds no run directory; name another with runs=<folder>, or run a grid first"
        )
    return roots


def read_runs(roots: Iterable[Path]) -> list[RunRecord]:
    """All runs; of one that cannot be read, its name and why: a damaged file must not cost the others."""
    records = []
    for root in roots:
        try:
            records.append(read_run(root))
        except UserError as error:
            records.append(RunRecord(root.name, {}, (), (), {}, "", "", root, damage=str(error)))
    return records


def read_run(root: Path) -> RunRecord:
    """Everything one run directory says; a torn last line is not a row.

    Raises:
        UserError: config.yaml is missing, or a file of the record is damaged.
    """
    run = RunDir(root)
    return RunRecord(
        signature=run.name,
        config=run.read_config(),
        metrics=tuple(read_rows(run.metrics)),
        evals=tuple(read_rows(run.evals)),
        state=run.read_state(),
        commit=_text(run.commit),
        overrides=_text(run.overrides),
        root=root,
    )


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
