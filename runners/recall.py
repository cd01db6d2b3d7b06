"""What tables and forecasts need of each config, remembered in ``runs/.recall.json``. No torch.

A thousand configs take a second to read, and none of them changes once its run has started.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.contract.errors import UserError
from ablate.contract.rundir import Row, RunDir, signature, write_text

SHOWN = ("choices", "seed", "budget")
NOT_SPEED = ("seed", "budget", "evaluation", "checkpoint")


def arm(config: Mapping[str, Any]) -> str:
    """Names what decides how long an iteration takes: all but a run's seed, length and evaluation."""
    return signature({key: value for key, value in config.items() if key not in NOT_SPEED})


def recall(runs: Path, found: Sequence[RunDir]) -> list[Row]:
    """For each run, its choices, seed, budget and arm."""
    memory = runs / ".recall.json"
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    fresh = {}
    for directory in found:
        stamp = directory.config.stat().st_mtime_ns
        entry = known.get(directory.name)
        if entry is None or entry["stamp"] != stamp:
            config = directory.read_config()
            kept = {name: config.get(name) for name in SHOWN}
            entry = {"stamp": stamp, "arm": arm(config), **kept}
        fresh[directory.name] = entry
    if fresh != known:
        with contextlib.suppress(UserError):  # somebody else's runs may be read-only
            write_text(memory, json.dumps(fresh))
    return list(fresh.values())
