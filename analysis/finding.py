"""What the runs say, in sentences computed from the table: no number is typed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.rows import ArmRow
from analysis.stats import STATISTICS, separated


def finding(
    rows: Sequence[ArmRow], threshold: float | None, statistic: str, rng: np.random.Generator
) -> tuple[str, list[str]]:
    """The headline and the sentences after it, for one setting.

    Args:
        rows: best first, as ``tables.arm_rows`` gives them.
    """
    best = rows[0]
    metric, hours = best.arm.setting.metric, _time(best.hours, best.arm.setting.device)
    if best.final.value <= best.initial.value:
        headline = (
            f"No arm improved the {metric} reward: after {hours} the best, {best.arm.label}, "
            f"is at {best.final.value:.2f}, from {best.initial.value:.2f}."
        )
    else:
        headline = (
            f"{best.arm.label} takes the {metric} reward from {best.initial.value:.2f} "
            f"to {best.final.value:.2f} in {hours}."
        )
    sentences = [_runner_up(rows, statistic, rng)] if len(rows) > 1 else []
    sentences += [_fastest(rows, threshold)] if threshold is not None else []
    if len(rows) > 1:
        improved = sum(row.final.value > row.initial.value for row in rows)
        sentences.append(f"{improved} of {len(rows)} arms end above where they started.")
    return headline, sentences


def _time(hours: float, device: str) -> str:
    unit = "CPU process-hours" if device == "cpu" else "GPU-hours"
    if hours >= 1.0:
        return f"{hours:.3g} {unit}"
    return (
        f"{hours:.3g} {unit} ({3600 * hours:.0f} s)"
        if hours < 1 / 60
        else f"{hours:.3g} {unit} ({60 * hours:.2g} min)"
    )


def _runner_up(rows: Sequence[ArmRow], statistic: str, rng: np.random.Generator) -> str:
    best, second = rows[0], rows[1]
    values = [row.arm.values(np.array([row.hours]))[:, 0] for row in (best, second)]
    apart = separated(values[0], values[1], STATISTICS[statistic], rng)
    told = {
        True: "the 95% interval of the difference excludes zero",
        False: "these seeds do not separate the two",
        None: f"with n = {min(best.arm.n, second.arm.n)} the order is not established",
    }[apart]
    return f"Next is {second.arm.label} at {second.final.value:.2f}: {told}."


def _fastest(rows: Sequence[ArmRow], threshold: float | None) -> str:
    arrived = [row for row in rows if row.to_threshold is not None and np.isfinite(row.to_threshold)]
    if not arrived:
        return f"No arm reached {threshold:g}."
    first = min(arrived, key=lambda row: (row.to_threshold, row.arm.label))
    count = f"{len(arrived)} of {len(rows)} arms reached" if len(rows) > 1 else f"{first.arm.label} reached"
    who = f"; {first.arm.label} first" if len(arrived) > 1 else ""
    return f"{count} {threshold:g}{who}, after {_time(first.to_threshold or 0.0, first.arm.setting.device)}."
