"""What is compared: an arm picked by run, label or choices, at one point of its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ablate.contract.errors import UserError
from analysis.arms import Arm
from analysis.curves import SLACK, Floats, axis_of
from analysis.paired import Difference, between, gain_over
from analysis.scores import PromptScores
from analysis.spec import did_you_mean

BASE = "base"
POINTS = ("hours", "samples", "forwards", "end")


@dataclass(frozen=True)
class Side:
    """An arm, and for each of its seeds the evaluation that counts: ``rows`` are places in its curves."""

    arm: Arm
    rows: tuple[int, ...]
    label: str

    def values(self) -> Floats:
        """The metric of every seed, [S]."""
        return np.array([curve.value[row] for curve, row in zip(self.arm.curves, self.rows, strict=True)])

    def mean_of(self, series: str) -> float:
        """Mean over seeds of hours, samples or forwards spent; NaN where one was not recorded."""
        spent = [axis_of(curve, series) for curve in self.arm.curves]
        return float(np.mean([values[row] for values, row in zip(spent, self.rows, strict=True)]))

    def scores(self) -> PromptScores | None:
        """Of every seed, ``value`` [S,P]; None where one kept none, or seeds were not asked the same."""
        kept = [curve.scores for curve in self.arm.curves if curve.scores is not None]
        if len(kept) < self.arm.n or not all(kept[0].alike(other) for other in kept):
            return None
        value = np.stack([scores.value[row] for scores, row in zip(kept, self.rows, strict=True)])
        return PromptScores(kept[0].names, kept[0].weight, value, kept[0].unit)


def before(arm: Arm) -> Side:
    """The arm before training.

    Raises:
        UserError: a run has no evaluation there.
    """
    for curve in arm.curves:
        if curve.iteration[0] != 0:
            raise UserError(
                f"run {curve.signature} has no evaluation before training (its first is at iteration "
                f"{curve.iteration[0]:.0f}): there is nothing to compare its end with"
            )
    return Side(arm, (0,) * arm.n, f"{arm.label} before training")


def at_end(arm: Arm) -> Side:
    """The arm where each of its seeds ended."""
    return Side(arm, tuple(len(curve.hours) - 1 for curve in arm.curves), arm.label)


def at_iteration(arm: Arm, text: str) -> Side:
    """The arm after so many iterations.

    Raises:
        UserError: a seed was not evaluated there.
    """
    rows = []
    for curve in arm.curves:
        found = [row for row, iteration in enumerate(curve.iteration) if f"{iteration:.0f}" == text]
        if not found:
            known = ", ".join(f"{iteration:.0f}" for iteration in curve.iteration)
            raise UserError(f"run {curve.signature} was not evaluated at iteration {text} (but at {known})")
        rows.append(found[0])
    return Side(arm, tuple(rows), f"{arm.label} after {text} iterations")


def budget_of(arms: Sequence[Arm], point: str) -> float:
    """What every seed of every arm has spent of hours, samples or forwards.

    Raises:
        UserError: they did not record it.
    """
    spent = [float(axis_of(curve, point)[-1]) for arm in arms for curve in arm.curves]
    if not np.all(np.isfinite(spent)):
        raise UserError(f"at={point}: not every run recorded its {point}; choose at=hours or at=end")
    return min(spent)


def at_budget(arm: Arm, point: str, budget: float) -> Side:
    """The last evaluation of every seed with no more than ``budget`` hours, samples or forwards."""
    reach = budget * (1.0 + SLACK)
    rows = (int(np.flatnonzero(axis_of(curve, point) <= reach)[-1]) for curve in arm.curves)
    return Side(arm, tuple(rows), arm.label)


def between_sides(above: Side, below: Side, rng: np.random.Generator) -> Difference:
    """The first less the second, prompt by prompt; of one arm with itself, also run by run.

    Where scores were not kept, or the prompts differ, the sides' means are compared over seeds alone.
    """
    ours, theirs = above.scores(), below.scores()
    same = [record.signature for record in above.arm.records] == [r.signature for r in below.arm.records]
    if ours is None or theirs is None or not ours.alike(theirs):
        first, second, weight = above.values()[:, None], below.values()[:, None], np.ones(1)
        unit = "prompts"
    else:
        first, second, weight, unit = ours.value, theirs.value, ours.weight, ours.unit
    gain = gain_over(second, first, weight, rng) if same else between(first, second, weight, rng)
    return replace(gain, unit=unit)


def pick(word: str, arms: Sequence[Arm]) -> Arm:
    """The arm a word means: its label, choices (``objective=epg,sampler=ode``), or signatures of its runs.

    Raises:
        UserError: no arm fits, or several do.
    """
    parts = [part for part in word.split(",") if part]
    fits = [arm for arm in arms if arm.label == word] or [arm for arm in arms if _fits(arm, parts)]
    if len(fits) == 1:
        return fits[0] if "=" in word or fits[0].label == word else _only(fits[0], parts)
    labels = list(dict.fromkeys(arm.label for arm in arms))
    if not fits:
        known = [*labels, *(record.signature for arm in arms for record in arm.records)]
        raise UserError(
            f"no arm and no run is {word!r}{did_you_mean(word, known)} (arms: {', '.join(labels)})"
        )
    told = ", ".join(f"{arm.label} ({arm.setting.policy}, {arm.setting.device})" for arm in fits)
    raise UserError(f"{word!r} fits {len(fits)} arms: {told}; say more, or give signatures of runs")


def _fits(arm: Arm, parts: Sequence[str]) -> bool:
    if all("=" in part for part in parts):
        return all(arm.choices.get(part.split("=")[0]) == part.split("=", 1)[1] for part in parts)
    return bool(parts) and set(parts) <= {record.signature for record in arm.records}


def _only(arm: Arm, signatures: Sequence[str]) -> Arm:
    """The arm with these runs alone."""
    kept = [place for place, record in enumerate(arm.records) if record.signature in signatures]
    label = arm.label if len(kept) == arm.n else f"{arm.label} ({', '.join(signatures)})"
    return Arm(
        label,
        arm.place,
        arm.lost,
        arm.setting,
        tuple(arm.records[place] for place in kept),
        tuple(arm.curves[place] for place in kept),
    )
