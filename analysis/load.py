"""Runs as frames: config columns and row columns side by side, the same whatever the runs were read from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
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
    kept = {  # resumed runs may repeat an iteration: the later row holds
        name: sorted(
            {row[ITERATION]: row for row in rows[name]}.values(), key=lambda row: int(row[ITERATION])
        )
        for name in sorted(rows)
        if rows[name]
    }
    if not kept:
        return pd.DataFrame(columns=[SIGNATURE, ITERATION])
    counts = [len(run) for run in kept.values()]
    every = list(chain.from_iterable(kept.values()))
    written = dict.fromkeys(chain.from_iterable(every))
    fixed = dict.fromkeys(key for name in kept for key in configs[name] if key not in written)
    columns: dict[str, Any] = {SIGNATURE: _repeated(list(kept), counts)}
    columns |= {key: _repeated([configs[name].get(key) for name in kept], counts) for key in fixed}
    columns |= {key: _column(every, key) for key in written}
    return pd.DataFrame(columns)


def _column(rows: Sequence[Row], key: str) -> list[Any]:
    """A key of all rows, NaN where one lacks it."""
    try:
        return list(map(itemgetter(key), rows))  # three times faster than asking each row whether it has it
    except KeyError:
        return [row.get(key, math.nan) for row in rows]


def _repeated(values: Sequence[Any], counts: Sequence[int]) -> pd.Categorical:
    """One value per run as a column: a categorical, as a hundred plain columns would not fit into memory."""
    codes, categories = pd.factorize(np.array([*values, None], dtype=object)[:-1])
    return pd.Categorical.from_codes(np.repeat(codes, counts), categories=pd.Index(categories, dtype=object))
