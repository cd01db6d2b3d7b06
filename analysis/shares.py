"""Which choice the variation of a setting is due to: the decomposition of its reward and of its hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ablate.contract.errors import UserError
from analysis.arms import HEADLINE, Setting
from analysis.labels import AXES
from analysis.rows import ArmRow, hours_text
from analysis.sides import at_budget
from analysis.variance import Decomposition, decompose


@dataclass(frozen=True)
class Part:
    """One outcome's decomposition, or why there is none; ``note`` says what the outcome is."""

    outcome: str
    note: str
    found: Decomposition | None
    why_not: str = ""


def parts(rows: Sequence[ArmRow], threshold: float | None, rng: np.random.Generator) -> tuple[Part, ...]:
    """Of the reward at the common budget, and of the logarithm of the hours to the threshold.

    Empty for a single arm. Where arms share all three choices, they differ in something else.
    """
    if len(rows) < 2:
        return ()
    setting, budget = rows[0].arm.setting, rows[0].hours
    reward = np.concatenate([at_budget(row.arm, "hours", budget).values() for row in rows])
    name = f"{setting.metric if setting.metric != HEADLINE else 'headline'} reward"
    found = [_part(rows, name, f"at {hours_text(budget)}", reward, rng)]
    if threshold is not None and budget > 0.0 and any(row.reached for row in rows):
        times = [row.times for row in rows if row.times is not None]
        hours = np.concatenate([np.minimum(time.hours, budget) for time in times])
        late = sum(int((~time.reached | (time.hours > budget)).sum()) for time in times)
        note = (
            f"{late} of {len(hours)} seeds did not get there and count with the whole budget" if late else ""
        )
        if hours.min() > 0.0:
            found.append(_part(rows, f"log hours to {threshold:g}", note, np.log(hours), rng))
    return tuple(found)


def _part(
    rows: Sequence[ArmRow], outcome: str, note: str, values: np.ndarray, rng: np.random.Generator
) -> Part:
    cells = [tuple(row.option(axis) for axis in AXES) for row in rows]
    if len(set(cells)) < len(cells):
        return Part(outcome, note, None, f"some arms differ in more than {', '.join(AXES)}")
    factors = {
        axis: [cell[place] for cell, row in zip(cells, rows, strict=True) for _ in range(row.arm.n)]
        for place, axis in enumerate(AXES)
    }
    try:
        return Part(outcome, note, decompose(factors, values, rng))
    except UserError as error:
        return Part(outcome, note, None, str(error))


def sentence(part: Part, setting: Setting) -> str:
    """``Of the variation of the strict reward, estimator explains 71% [60%, 80%], ….``"""
    if part.found is None:
        return f"The variation of the {part.outcome} was not divided: {part.why_not}."
    told = ", ".join(
        f"{share.name} {max(0.0, share.value):.0%} [{max(0.0, share.low):.0%}, {min(1.0, share.high):.0%}]"
        for share in sorted(part.found.shares, key=lambda share: -share.value)
    )
    how = (
        "ω² of a balanced analysis of variance"
        if part.found.method == "anova"
        else f"Shapley shares, as only {part.found.cells} of {part.found.whole} cells exist with equal seeds"
    )
    return f"Of the variation of the {part.outcome}: {told} ({how}; n = {part.found.n})."
