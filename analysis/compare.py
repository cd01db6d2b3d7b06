"""python -m analysis compare A B: which is better, by how much, how sure, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ablate.contract.errors import UserError
from analysis.arms import Arm, evaluated_alike
from analysis.contrasts import probability_of_improvement
from analysis.paired import Difference
from analysis.rows import hours_text
from analysis.sides import (
    BASE,
    POINTS,
    Side,
    at_budget,
    at_end,
    at_iteration,
    before,
    between_sides,
    budget_of,
    pick,
)
from analysis.survival import Times, median, restricted_mean, speed_up, times_to

SURE: Final = 0.01  # the p below which an arm counts as risen

HELP: Final = """\
Which of two is better, by how much, how sure, and at what cost.

  python -m analysis compare A B     two arms, at equal device-hours
  python -m analysis compare A       one arm: the end of training against its base
  python -m analysis compare         every arm: end against base

  A, B         an arm's label, its choices (objective=epg,sampler=ode), or signatures with commas between;
               A@base or A@40 takes A before training, or after 40 iterations
  runs=WHERE report=NAME sweep=NAME   which runs to choose from (default: $RUNS_DIR, else runs)
  at=hours     compare at equal hours | samples | forwards, or each at its end
  metric= labels= unfinished=         as for a report

Both were asked the same prompts with the same noise, so the difference is taken prompt by prompt. Its 95%
interval and p come from a paired bootstrap over prompts where a side has fewer than three seeds: they are of
these runs, for other prompts. From three seeds up they are for other seeds and prompts. A p is two-sided, and
for one comparison. Of fewer than ten prompts, single samples are paired and drawn in their place."""


def told(words: Sequence[str], arms: Sequence[Arm], point: str, rng: np.random.Generator) -> list[str]:
    """The answer, line by line.

    Args:
        words: no, one or two sides.   arms: to choose from.   point: one of ``POINTS``.

    Raises:
        UserError: a side is unclear, or the two cannot be compared.
    """
    if point not in POINTS:
        raise UserError(f"at={point} is unknown; choose {' or '.join(POINTS)}")
    if len(words) > 2:
        raise UserError(
            f"{len(words)} sides ({', '.join(words)}): give two, one or none (see compare --help)"
        )
    if len(words) == 2:
        return _pair(words, arms, point, rng)
    return _rises([pick(word.removesuffix(f"@{BASE}"), arms) for word in words] or arms, rng)


def _rises(arms: Sequence[Arm], rng: np.random.Generator) -> list[str]:
    """Every arm's end against its base, and how many rose for sure."""
    lines, risen = [], 0
    for arm in arms:
        end, base = at_end(arm), before(arm)
        gain = between_sides(end, base, rng)
        risen += gain.value > 0.0 and gain.p is not None and gain.p < SURE
        lines += [
            f"{arm.label} ({_where(arm)}): {np.mean(base.values()):.3f} -> {np.mean(end.values()):.3f} "
            f"after {hours_text(end.mean_of('hours'))}",
            f"  {gain_text(gain)}",
        ]
    return [*lines, f"{risen} of {len(arms)} arms end above their base with p < {SURE}."]


def _pair(words: Sequence[str], arms: Sequence[Arm], point: str, rng: np.random.Generator) -> list[str]:
    sides = _sides(words, arms, point)
    settings = {side.arm.setting for side in sides}
    if len({(setting.policy, setting.metric) for setting in settings}) > 1:
        told = " and ".join(_where(side.arm) for side in sides)
        raise UserError(f"{told} are not one measure; compare runs of one policy, with one metric=")
    if len(settings) > 1 and point == "hours":
        told = " and ".join(side.arm.setting.device for side in sides)
        raise UserError(f"hours on {told} have no common unit; compare at=samples, at=forwards or at=end")
    if keys := evaluated_alike([side.arm for side in sides]):
        names = ", ".join(f"evaluation.{key}" for key in keys)
        raise UserError(f"the two were not evaluated alike ({names}): their rewards are not one measure")
    gain = between_sides(*sides, rng)
    lines = [_line(name, side) for name, side in zip("AB", sides, strict=True)]
    lines += [verdict(gain)]
    lines += [_chance(*sides)] if all(side.arm.n > 1 for side in sides) else []
    return [*lines, *(_cost(*sides, rng) if len(settings) == 1 else [])]


def _sides(words: Sequence[str], arms: Sequence[Arm], point: str) -> tuple[Side, Side]:
    names, marks = zip(*(word.partition("@")[::2] for word in words), strict=True)
    picked = [pick(name, arms) for name in names]
    free = [arm for arm, mark in zip(picked, marks, strict=True) if not mark]
    budget = budget_of(free, point) if free and point != "end" else 0.0
    first, second = (
        before(arm)
        if mark == BASE
        else at_iteration(arm, mark)
        if mark
        else at_end(arm)
        if point == "end" or len(free) < 2
        else at_budget(arm, point, budget)
        for arm, mark in zip(picked, marks, strict=True)
    )
    return first, second


def gain_text(gain: Difference) -> str:
    """``+0.109 [0.083, 0.135], p = 0.0002: paired over 192 prompts and 3 seeds``"""
    if gain.low is None or gain.high is None or gain.p is None:
        return f"{gain.value:+.3f}: no interval, with {gain.prompts} {gain.unit} and {min(gain.seeds)} seeds"
    seeds = " + ".join(str(count) for count in dict.fromkeys(gain.seeds))
    told = {
        "prompts": f"paired bootstrap over {gain.prompts} {gain.unit}; of these runs alone, n = {seeds}",
        "seeds": f"over n = {seeds} seeds",
        "prompts and seeds": f"paired over {gain.prompts} {gain.unit}, and over n = {seeds} seeds",
    }[gain.over]
    p = f"p = {gain.p:.2g}" if gain.p >= 1e-4 else "p < 0.0001"
    return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], {p} ({told})"


def verdict(gain: Difference) -> str:
    """The sentence: who, by how much, how sure."""
    if gain.low is None:
        return f"Undecided: A - B = {gain_text(gain)}"
    if not gain.sure:
        return f"Undecided: A - B = {gain_text(gain)}"
    return f"{'A' if gain.value > 0.0 else 'B'} is better: A - B = {gain_text(gain)}"


def _where(arm: Arm) -> str:
    return f"{arm.setting.policy}, {arm.setting.metric} reward, {arm.setting.device}"


def _line(name: str, side: Side) -> str:
    spent = [f"{hours_text(side.mean_of('hours'))}"]
    for series in ("samples", "forwards"):
        count = side.mean_of(series)
        spent += [f"{count:,.0f} {series}"] if np.isfinite(count) else []
    lost = f", {side.arm.lost} left out" if side.arm.lost else ""
    return (
        f"{name}  {side.label} ({_where(side.arm)}): {np.mean(side.values()):.3f} "
        f"at {', '.join(spent)} (n = {side.arm.n}{lost})"
    )


def _chance(above: Side, below: Side) -> str:
    """How often a run of A beats a run of B."""
    found = probability_of_improvement(above.values(), below.values())
    return f"A run of A beats a run of B with probability {found.text(2)} (pairs of seeds)."


def _cost(above: Side, below: Side, rng: np.random.Generator) -> list[str]:
    """When each first reached the level where the worst seed of both ended, and the ratio of these hours."""
    level = float(min(above.values().min(), below.values().min()))
    parts: list[str] = []
    sides: list[tuple[str, Times]] = []
    for name, side in (("A", above), ("B", below)):
        times = times_to(side.arm.curves, level)
        sides.append((name, times))
        found = float(median(times.hours, times.reached))
        when = hours_text(found) if np.isfinite(found) else "not at all"
        parts.append(f"{name} {when} ({int(times.reached.sum())} of {times.n} seeds)")
    lines = [f"Device-hours to {level:.3f}, where the lowest seed ended, median: {', '.join(parts)}."]
    horizon = min(curve.end for side in (above, below) for curve in side.arm.curves)
    arrived = [pair for pair in sides if pair[1].reached.any()]
    if len(arrived) == 2 and horizon > 0.0:
        spent = [float(restricted_mean(times.hours, times.reached, horizon)) for _, times in sides]
        (slow, slowly), (fast, fastly) = (sides[0], sides[1]) if spent[0] > spent[1] else (sides[1], sides[0])
        ratio = speed_up(slowly, fastly, horizon, rng)
        if ratio is not None:
            lines.append(f"There {slow} needs {ratio.text()} times the mean hours of {fast}.")
    return lines
