"""One row per arm: table.md for people, table.csv for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arms import Arm, Setting
from analysis.curves import SLACK
from analysis.labels import AXES
from analysis.stats import INTERVAL_FROM, STATISTICS, Estimate, estimate, hours_to

COLUMNS = (
    "arm", "objective", "estimator", "sampler", "policy", "n", "reward_initial", "reward_final", "device",
    "device_hours", "hours_to_threshold", "forwards",
)  # fmt: skip


@dataclass(frozen=True)
class ArmRow:
    """What the table says of one arm.

    Attributes:
        initial: before training.   final: at ``hours``, the device-hours that all arms reached.
        own: at ``own_hours``, where this arm's first seed ended.
        to_threshold: device-hours, median over seeds; inf where most did not reach it, None without one.
        reached: how many seeds did.   forwards: of the network, at ``hours``; mean over seeds.
        age: of the evaluation ``final`` was read from, as a part of ``hours``; of the seed with the oldest.
    """

    arm: Arm
    initial: Estimate
    final: Estimate
    own: Estimate
    hours: float
    own_hours: float
    to_threshold: float | None
    reached: int
    forwards: float
    age: float

    @property
    def runs_on(self) -> bool:
        """Whether the arm went on for longer than the common budget."""
        return self.own_hours > self.hours * (1.0 + SLACK)

    def option(self, group: str) -> str:
        return self.arm.choices.get(group, "")

    def own_text(self) -> str:
        """``0.439 [0.402, 0.461] at 0.0966 h``, or "same" where the arm ended with the common budget."""
        return f"{self.own.text()} at {hours_text(self.own_hours)}" if self.runs_on else "same"

    def threshold_text(self) -> str:
        """``0.031 h``, ``0.031 h (2 of 3)`` or ``not reached (1 of 3)``: seeds that did, of all."""
        if self.to_threshold is None:
            return "–"
        count = "" if self.reached in (0, self.arm.n) else f" ({self.reached} of {self.arm.n})"
        return ("not reached" if np.isinf(self.to_threshold) else hours_text(self.to_threshold)) + count


def hours_text(hours: float) -> str:
    """Hours to three digits: ``0.0312 h``."""
    return f"{hours:.3g} h"


def arm_rows(
    arms: Sequence[Arm], threshold: float | None, statistic: str, rng: np.random.Generator
) -> list[ArmRow]:
    """The rows of one setting, best reward at equal device-hours first."""
    budget = min(arm.end for arm in arms)
    rows = [_row(arm, budget, threshold, statistic, rng) for arm in arms]
    return sorted(rows, key=lambda row: (-row.final.value, row.arm.label))


def _row(
    arm: Arm, budget: float, threshold: float | None, statistic: str, rng: np.random.Generator
) -> ArmRow:
    of = STATISTICS[statistic]
    grid = np.array([budget, arm.end])
    values = arm.values(grid)
    times = [hours_to(curve.hours, curve.value, threshold) for curve in arm.curves if threshold is not None]
    oldest = min(float(curve.at(curve.hours, grid)[0]) for curve in arm.curves)
    return ArmRow(
        arm=arm,
        initial=estimate(np.array([curve.value[0] for curve in arm.curves]), of, rng),
        final=estimate(values[:, 0], of, rng),
        own=estimate(values[:, 1], of, rng),
        hours=budget,
        own_hours=arm.end,
        to_threshold=float(np.median(times)) if times else None,
        reached=int(np.isfinite(times).sum()),
        age=max(0.0, 1.0 - oldest / budget) if budget > 0.0 else 0.0,
        forwards=float(np.mean([curve.at(curve.forwards, grid)[0] for curve in arm.curves])),
    )


def csv_text(rows: Sequence[ArmRow]) -> str:
    """The table with bare numbers; hours_to_threshold is ``inf`` where most seeds did not reach it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        setting = row.arm.setting
        writer.writerow([
            row.arm.label, *(row.option(group) for group in AXES), setting.policy, row.arm.n,
            f"{row.initial.value:.6g}", f"{row.final.value:.6g}", setting.device, f"{row.hours:.6g}",
            "" if row.to_threshold is None else f"{row.to_threshold:.6g}", f"{row.forwards:.0f}",
        ])  # fmt: skip
    return text.getvalue()


def caption(setting: Setting, rows: Sequence[ArmRow], threshold: float | None, statistic: str) -> str:
    """What the columns mean, with the numbers they depend on."""
    interval = f"n < {INTERVAL_FROM}: no intervals."
    if any(row.arm.n >= INTERVAL_FROM for row in rows):
        interval = (
            f"In brackets, from n = {INTERVAL_FROM} up: 95% percentile bootstrap over seeds; "
            "with so few seeds it is too narrow rather than too wide."
        )
    reach = (
        f" Hours to {threshold:g}: device-hours of the first evaluation there, median over seeds."
        if threshold is not None
        else ""
    )
    errors = [curve.error[-1] for row in rows for curve in row.arm.curves if np.isfinite(curve.error[-1])]
    images = (
        f" The standard error of one evaluation, over its samples, is up to {max(errors):.3f}."
        if errors
        else ""
    )
    return (
        f"Policy {setting.policy}, reward {setting.metric}, device {setting.device}. "
        f"Final reward: {statistic} over seeds at {hours_text(rows[0].hours)}, the budget that every arm "
        f"reached (last evaluation no later than {SLACK:.0%} after it). {interval}{images}{reach} "
        "Forwards: of the network on single samples, up to that budget, mean over seeds."
    )


def markdown(rows: Sequence[ArmRow], threshold: float | None, statistic: str) -> str:
    """The table of one setting with its caption."""
    head = ["arm", *AXES, "n", "reward, initial", "reward, final"]
    longer = any(row.runs_on for row in rows)
    head += ["reward, own end"] if longer else []
    head += ["device-hours", f"hours to {threshold:g}"] if threshold is not None else ["device-hours"]
    lines = ["| " + " | ".join([*head, "forwards"]) + " |", "|" + "---|" * (len(head) + 1)]
    for row in rows:
        count = f"{row.arm.n} ({row.arm.lost} left out)" if row.arm.lost else str(row.arm.n)
        cells = [row.arm.label, *(row.option(group) for group in AXES), count]
        cells += [f"{row.initial.value:.3f}", row.final.text()]
        cells += [row.own_text()] if longer else []
        cells += [hours_text(row.hours), *([row.threshold_text()] if threshold is not None else [])]
        lines.append("| " + " | ".join([*cells, f"{row.forwards:,.0f}"]) + " |")
    setting = rows[0].arm.setting
    return "\n".join([*lines, "", caption(setting, rows, threshold, statistic), ""])
