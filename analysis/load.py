"""Runs as frames: config columns and row columns side by side, the same whatever the runs were read from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ablate.contract.keys import ITERATION
from ablate.contract.rundir import Row
from analysis.record import RunRecord

SIGNATURE = "signature"


@dataclass(frozen=True)
class Frames:
    """``metrics`` and ``evals``: one row per (signature, iteration), sorted by both."""

    metrics: pd.DataFrame
    evals: pd.DataFrame


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"batch": {"micro": 8}} -> {"batch.micro": 8}; a list becomes its JSON text: every cell is a scalar."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return flat


def frames(records: Sequence[RunRecord]) -> Frames:
    """One frame per kind of row; of rows written twice for an iteration, the last."""
    configs = {record.signature: flatten(record.config) for record in records}
    return Frames(
        metrics=_frame({record.signature: record.metrics for record in records}, configs),
        evals=_frame({record.signature: record.evals for record in records}, configs),
    )


def _frame(rows: Mapping[str, Sequence[Row]], configs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    table = [
        {SIGNATURE: name, **configs[name], **row}  # resumed runs may repeat an iteration: the later row holds
        for name, run in rows.items()
        for row in {row[ITERATION]: row for row in run}.values()
    ]
    frame = pd.DataFrame(table)
    if frame.empty:
        return pd.DataFrame(columns=[SIGNATURE, ITERATION])
    return frame.sort_values([SIGNATURE, ITERATION], ignore_index=True)
