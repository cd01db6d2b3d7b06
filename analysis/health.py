"""Where the hours went and how the updates behaved: one line per arm, from the training rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.contract import keys
from analysis.arms import Arm
from analysis.curves import Floats
from analysis.load import SIGNATURE

PHASES = ("rollout", "reward", "update")


@dataclass(frozen=True)
class Health:
    """One arm over all rows of all its seeds; a number is None where its column was not recorded.

    Attributes:
        iterations: of the seed that got furthest.   seconds: device-seconds per iteration, by phase, mean.
        grad_norm: median.   log_ratio: largest |log ratio|, nats per dimension.
        zero_std: mean fraction of groups whose rewards are all equal.
    """

    arm: Arm
    iterations: int
    seconds: dict[str, float]
    grad_norm: float | None
    log_ratio: float | None
    zero_std: float | None

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def health(arms: Sequence[Arm], metrics: pd.DataFrame) -> list[Health]:
    """One line per arm that has training rows."""
    lines = []
    for arm in arms:
        rows = metrics[metrics[SIGNATURE].isin([curve.signature for curve in arm.curves])]
        if not rows.empty:
            lines.append(_line(arm, rows))
    return lines


def _line(arm: Arm, rows: pd.DataFrame) -> Health:
    def reduced(key: str, how: Callable[[Floats], object]) -> float | None:
        values = rows[key].dropna().to_numpy(dtype=np.float64) if key in rows else np.array([])
        return float(np.asarray(how(values))) if values.size else None

    seconds = {phase: reduced(keys.time_of(phase), np.mean) for phase in PHASES}
    return Health(
        arm=arm,
        iterations=int(rows[keys.ITERATION].max()),
        seconds={phase: value for phase, value in seconds.items() if value is not None},
        grad_norm=reduced(keys.GRAD_NORM, np.median),
        log_ratio=reduced(keys.LOG_RATIO_ABS_MAX, np.max),
        zero_std=reduced(keys.GROUP_ZERO_STD, np.mean),
    )
