"""What a table says of one arm: the numbers, before any format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student

from analysis.arms import Arm
from analysis.contrasts import area_under
from analysis.curves import SLACK
from analysis.paired import LEVEL, standard_error
from analysis.scores import PROMPTS_FROM
from analysis.sides import Side, at_budget, between_sides
from analysis.stats import INTERVAL_FROM, STATISTICS, Estimate, estimate
from analysis.survival import Ratio, Times, mean_estimate, median_estimate, speed_up, times_to


@dataclass(frozen=True)
class ArmRow:
    """One arm.

    Attributes:
        initial: before training.   final: at ``hours``, the device-hours that all arms reached.
        own: at ``own_hours``, where this arm's first seed ended.
        area: mean reward on the way to ``hours``.
        times: when each seed got to the threshold, None without one.
        median: of these hours; inf where most did not get there.
        spent: their mean up to ``hours``, where seeds that did not get there count ``hours``.
        ratio: ``spent`` over that of the reference arm; None for the reference, and where nobody arrived.
        forwards, samples: up to ``hours``; mean over seeds.
        age: of the evaluation ``final`` was read from, as a part of ``hours``; of the seed with the oldest.
        best: whether the interval of the difference to every other arm of the setting lies above zero.
    """

    arm: Arm
    initial: Estimate
    final: Estimate
    own: Estimate
    area: Estimate | None
    hours: float
    own_hours: float
    times: Times | None
    median: Estimate | None
    spent: Estimate | None
    forwards: float
    samples: float
    age: float
    ratio: Ratio | None = None
    reference: str = ""
    best: bool = False

    @property
    def to_threshold(self) -> float | None:
        return None if self.median is None else self.median.value

    @property
    def reached(self) -> int:
        """Seeds that got to the threshold."""
        return 0 if self.times is None else int(self.times.reached.sum())

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
        """``0.031 h [0.03, 0.04]``, or ``not reached (1 of 3)``: seeds that did, of all."""
        if self.median is None:
            return "–"
        count = "" if self.reached in (0, self.arm.n) else f" ({self.reached} of {self.arm.n})"
        if np.isinf(self.median.value):
            return "not reached" + count
        low, high = self.median.low, self.median.high
        above = "" if high is None else "∞" if np.isinf(high) else f"{high:.3g}"
        return hours_text(self.median.value) + count + (f" [{low:.3g}, {above}]" if low is not None else "")


def hours_text(hours: float) -> str:
    """Hours to three digits: ``0.0312 h``."""
    return f"{hours:.3g} h"


def arm_rows(
    arms: Sequence[Arm],
    threshold: float | None,
    statistic: str,
    rng: np.random.Generator,
    reference: str | None = None,
) -> list[ArmRow]:
    """The rows of one setting, best reward at equal device-hours first.

    Args:
        reference: label of the arm that hours are compared with; None takes the fastest.
    """
    budget = min(arm.end for arm in arms)
    rows = [_row(arm, budget, threshold, statistic, rng) for arm in arms]
    rows = sorted(rows, key=lambda row: (-row.final.value, row.arm.label))
    return _marked(_compared(rows, reference, rng), rng)


def _row(
    arm: Arm, budget: float, threshold: float | None, statistic: str, rng: np.random.Generator
) -> ArmRow:
    of = STATISTICS[statistic]
    grid = np.array([budget, arm.end])
    values = arm.values(grid)
    side = at_budget(arm, "hours", budget)
    times = None if threshold is None else times_to(arm.curves, threshold)
    oldest = min(float(curve.at(curve.hours, grid)[0]) for curve in arm.curves)
    areas = [area_under(curve, budget) for curve in arm.curves] if budget > 0.0 else []
    return ArmRow(
        arm=arm,
        initial=estimate(np.array([curve.value[0] for curve in arm.curves]), of, rng),
        final=_reward(side, statistic, rng),
        own=estimate(values[:, 1], of, rng),
        area=estimate(np.array(areas), of, rng) if areas else None,
        hours=budget,
        own_hours=arm.end,
        times=times,
        median=None if times is None else median_estimate(times),
        spent=None if times is None or budget <= 0.0 else mean_estimate(times, budget, rng),
        age=max(0.0, 1.0 - oldest / budget) if budget > 0.0 else 0.0,
        forwards=side.mean_of("forwards"),
        samples=side.mean_of("samples"),
    )


def _reward(side: Side, statistic: str, rng: np.random.Generator) -> Estimate:
    """Over seeds; of the mean also over prompts, where ten or more of them kept their scores."""
    plain = estimate(side.values(), STATISTICS[statistic], rng)
    scores = side.scores()
    if statistic != "mean" or plain.n < INTERVAL_FROM or scores is None or len(scores.weight) < PROMPTS_FROM:
        return plain
    error, freedom = standard_error((scores.value,), scores.value.mean(axis=0), scores.weight)
    reach = float(student.ppf((1.0 + LEVEL) / 2.0, freedom)) * error
    return Estimate(plain.value, plain.n, plain.value - reach, plain.value + reach)


def _compared(rows: Sequence[ArmRow], reference: str | None, rng: np.random.Generator) -> list[ArmRow]:
    """Every row with the ratio of its hours to those of the reference."""
    arrived = [row for row in rows if row.times is not None and row.spent is not None and row.reached]
    named = [row for row in rows if row.arm.label == reference]
    if not (named or arrived):
        return list(rows)
    fastest = min(
        arrived, key=lambda row: (row.spent.value if row.spent else np.inf, row.arm.label), default=None
    )
    base = named[0] if named else fastest
    if base is None or base.times is None:
        return list(rows)
    return [
        replace(
            row,
            reference=base.arm.label,
            ratio=None
            if row is base or row.times is None
            else speed_up(row.times, base.times, row.hours, rng),
        )
        for row in rows
    ]


def _marked(rows: Sequence[ArmRow], rng: np.random.Generator) -> list[ArmRow]:
    """The first row is the best if the interval of its difference to each other arm, paired, says so."""
    if len(rows) < 2 or min(row.arm.n for row in rows) < INTERVAL_FROM:
        return list(rows)
    first = at_budget(rows[0].arm, "hours", rows[0].hours)
    for row in rows[1:]:
        gain = between_sides(first, at_budget(row.arm, "hours", row.hours), rng)
        if gain.low is None or gain.low <= 0.0:
            return list(rows)
    return [replace(rows[0], best=True), *rows[1:]]
