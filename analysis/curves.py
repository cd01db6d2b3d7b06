"""One run's reward as a function of device-hours. R: rows of the run, H: points of a grid, S: seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.scores import Floats, PromptScores

__all__ = ["SLACK", "Curve", "Floats", "resample", "shared_grid"]

SLACK = 0.02  # a run stops after the iteration that crosses its budget, so equal budgets end a little apart


def resample(hours: Floats, value: Floats, grid: Floats) -> Floats:
    """value(h) = value of the last row with hours <= h: held, never interpolated into the future.

    Args:
        hours: [R], not decreasing.   value: [R].   grid: [H], same unit as hours.

    Returns:
        [H]; NaN before the first row and after the last one: what was not measured is not known.

    Raises:
        ValueError: no rows, shapes differ, or hours decrease.
    """
    if hours.ndim != 1 or hours.shape != value.shape or hours.size == 0:
        raise ValueError(
            f"hours {hours.shape} and value {value.shape} must be equal lists of one row or more"
        )
    if np.any(np.diff(hours) < 0):
        raise ValueError("hours must not decrease: sort the rows by iteration and keep the last of each")
    last = np.searchsorted(hours, grid, side="right") - 1
    known = (last >= 0) & (grid <= hours[-1])
    return np.where(known, value[np.maximum(last, 0)], np.nan)


@dataclass(frozen=True)
class Curve:
    """The evaluations of one run, all arrays [R].

    Attributes:
        hours: cumulative device-hours.   value: mean of the metric over the evaluation prompts.
        error: standard error of value over the evaluation's samples; NaN where they were not kept.
        forwards: cumulative forwards of the network.   tasks: mean of the metric per task.
        images: sample grids, one per evaluation; None where there is none.
        samples: cumulative training samples.   scores: of every prompt; None where they were not kept.
    """

    signature: str
    seed: int
    iteration: Floats
    hours: Floats
    value: Floats
    error: Floats
    forwards: Floats
    tasks: Mapping[str, Floats]
    images: tuple[Path | None, ...]
    samples: Floats | None = None
    scores: PromptScores | None = None

    @property
    def end(self) -> float:
        """Device-hours of the last evaluation."""
        return float(self.hours[-1])

    def at(self, series: Floats, grid: Floats) -> Floats:
        """A series of this run at grid [H] device-hours: the last row no later than grid·(1 + SLACK)."""
        reach = np.minimum(grid * (1.0 + SLACK), self.end)
        return resample(self.hours, series, np.where(grid <= self.end, reach, grid))


def axis_of(curve: Curve, point: str) -> Floats:
    """hours, samples or forwards of every evaluation [R]; NaN where they were not recorded."""
    if point == "samples":
        return curve.samples if curve.samples is not None else np.full(curve.hours.shape, np.nan)
    return curve.forwards if point == "forwards" else curve.hours


def along(curves: tuple[Curve, ...], point: str) -> tuple[Floats, Floats]:
    """What every seed has spent at its common evaluations [H], and the metric of every seed there [S,H].

    Seeds of one arm spend the same samples per iteration; where they differ, the most that one had spent.
    """
    common = sorted(set.intersection(*(set(curve.iteration.tolist()) for curve in curves)))
    places = [[int(np.flatnonzero(c.iteration == at)[0]) for at in common] for c in curves]
    spent = np.stack([axis_of(c, point)[rows] for c, rows in zip(curves, places, strict=True)])
    return spent.max(axis=0), np.stack([c.value[rows] for c, rows in zip(curves, places, strict=True)])


def shared_grid(curves: tuple[Curve, ...]) -> Floats:
    """[H] device-hours at which every seed has done one more evaluation; ends where the first seed ends."""
    common = set.intersection(*(set(curve.iteration.tolist()) for curve in curves))
    latest = [
        max(float(curve.hours[curve.iteration == iteration][0]) for curve in curves)
        for iteration in sorted(common)
    ]
    end = min(curve.end for curve in curves)
    return np.unique(np.minimum(np.array([*latest, end]), end))
