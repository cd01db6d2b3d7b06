"""What one run left behind, whatever it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.contract.rundir import Row


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        metrics: one row per iteration.   evals: one row per evaluation.
        state: state.json, {} before the run first started.
        commit, overrides: text recorded at submission, "" if there is none.
        root: the directory that image paths are relative to; None where the source keeps no images.
        damage: why its record cannot be read; "" where it can.
    """

    signature: str
    config: Mapping[str, Any]
    metrics: tuple[Row, ...]
    evals: tuple[Row, ...]
    state: Mapping[str, Any]
    commit: str
    overrides: str
    root: Path | None
    damage: str = ""

    @property
    def choices(self) -> dict[str, str]:
        """The option chosen in each config group, e.g. {"sampler": "ode"}."""
        return {str(group): str(option) for group, option in (self.config.get("choices") or {}).items()}

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def progress(self) -> str:
        """done, failed, running, or "not started"."""
        return str(self.state.get("state", "not started"))
