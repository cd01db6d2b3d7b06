"""Hours to a threshold, where runs that never got there count as such. S: seeds, B: resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from analysis.curves import Curve, Floats
from analysis.stats import INTERVAL_FROM, RESAMPLES, Estimate, hours_to

LEVEL: Final = 0.95
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Times:
    """When each seed first reached a threshold.

    Attributes:
        hours: device-hours of that evaluation, or of the last one where it was never reached, [S].
        reached: [S].
    """

    hours: Floats
    reached: Flags

    @property
    def n(self) -> int:
        return len(self.hours)


@dataclass(frozen=True)
class Ratio:
    """How many times another arm's hours one needs; ``at_least`` where some of its seeds never got there."""

    value: float
    low: float | None
    high: float | None
    at_least: bool

    def text(self) -> str:
        """``3.1 [2.2, 4.4]``, or ``at least 3.1 [2.2, 4.4]``"""
        body = f"{self.value:.2f}"
        if self.low is not None and self.high is not None:
            body += f" [{self.low:.2f}, {self.high:.2f}]"
        return f"at least {body}" if self.at_least else body


def times_to(curves: Sequence[Curve], threshold: float) -> Times:
    """The first evaluation of each seed with value >= threshold; evaluations before it did not see it yet."""
    first = np.array([hours_to(curve.hours, curve.value, threshold) for curve in curves])
    ends = np.array([curve.end for curve in curves])
    reached = np.isfinite(first)
    return Times(np.where(reached, first, ends), reached)


def _survival(hours: Floats, reached: Flags) -> tuple[Floats, Floats]:
    """Sorted hours and the Kaplan–Meier S(t) = Π_{t_i <= t} (1 − d_i/n_i) just after each, [...,S]."""
    order = np.lexsort((~reached, hours), axis=-1)  # of a tie, those who arrived come first
    hours = np.take_along_axis(hours, order, axis=-1)
    arrived = np.take_along_axis(reached, order, axis=-1)
    at_risk = np.arange(hours.shape[-1], 0, -1)
    return hours, np.asarray(np.cumprod(1.0 - arrived / at_risk, axis=-1), dtype=np.float64)


def median(hours: Floats, reached: Flags) -> Floats:
    """min{t : S(t) <= 1/2}, Kaplan & Meier (JASA 53, 1958): [...,S] -> [...]; inf where S stays above."""
    ordered, survival = _survival(hours, reached)
    below = survival <= 0.5 + 1e-12
    first = np.take_along_axis(ordered, below.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    return np.where(below.any(axis=-1), first, np.inf)


def restricted_mean(hours: Floats, reached: Flags, horizon: float) -> Floats:
    """∫_0^τ S(t) dt, the mean of min(T, τ): [...,S] -> [...]. Royston & Parmar, BMC Med Res Methodol 13:152.

    Unbiased though seeds stop early, if one was watched up to τ; after the last seed S keeps its value.

    Args:
        horizon: τ, device-hours.
    """
    ordered, survival = _survival(hours, reached)
    ends = np.minimum(ordered, horizon)
    before = np.concatenate([np.ones((*survival.shape[:-1], 1)), survival], axis=-1)
    zero = np.zeros((*ends.shape[:-1], 1))
    steps = np.diff(np.concatenate([zero, ends, np.full_like(zero, horizon)], axis=-1), axis=-1)
    return np.asarray((before * steps).sum(axis=-1))


def _resampled(times: Times, rng: np.random.Generator) -> tuple[Floats, Flags]:
    picks = rng.integers(times.n, size=(RESAMPLES, times.n))
    return times.hours[picks], times.reached[picks]


def median_estimate(times: Times) -> Estimate:
    """The median with its 95% interval: all t at which the interval of S(t) holds 1/2; up to inf.

    Brookmeyer & Crowley (Biometrics 38, 1982), on the log(−log S) scale with Greenwood's variance. None
    can do more than span the seeds: of three this covers the median in 75% of cases, of four in 88%, of five
    in 94%.
    """
    value = float(median(times.hours, times.reached))
    if times.n < INTERVAL_FROM:
        return Estimate(value, times.n)
    ordered, survival = _survival(times.hours, times.reached)
    at_risk = np.arange(times.n, 0, -1)
    arrived = -np.diff(survival, prepend=1.0) > 0.0
    greenwood = np.cumsum(
        np.where(arrived & (at_risk > 1), 1.0 / (at_risk * np.maximum(at_risk - 1, 1)), 0.0)
    )
    inside = np.clip(survival, 1e-12, 1.0 - 1e-12)
    error = np.sqrt(greenwood) / np.abs(np.log(inside))
    z = float(student.ppf((1.0 + LEVEL) / 2.0, np.inf))
    lowest, highest = inside ** np.exp(z * error), inside ** np.exp(-z * error)
    low = ordered[lowest <= 0.5][0] if (lowest <= 0.5).any() else np.inf
    high = ordered[highest < 0.5][0] if (highest < 0.5).any() else np.inf
    return Estimate(value, times.n, float(low), float(high))


def mean_estimate(times: Times, horizon: float, rng: np.random.Generator) -> Estimate:
    """The restricted mean with its 95% interval: value ± t·√(S/(S − 1))·se*, within [0, τ]."""
    value = float(restricted_mean(times.hours, times.reached, horizon))
    if times.n < INTERVAL_FROM:
        return Estimate(value, times.n)
    error = float(restricted_mean(*_resampled(times, rng), horizon).std()) * _widen(times.n)
    reach = float(student.ppf((1.0 + LEVEL) / 2.0, times.n - 1)) * error
    return Estimate(value, times.n, max(0.0, value - reach), min(horizon, value + reach))


def speed_up(slow: Times, fast: Times, horizon: float, rng: np.random.Generator) -> Ratio | None:
    """restricted mean of ``slow`` / that of ``fast``, with a 95% interval on the log scale (Welch's degrees).

    Where seeds of ``slow`` did not arrive by τ their hours count as τ, and the ratio is a lower bound.
    None where nobody arrived, or the fast arm needed no hours at all.
    """
    sides = (slow, fast)
    means = [float(restricted_mean(side.hours, side.reached, horizon)) for side in sides]
    arrived = [side.reached & (side.hours <= horizon) for side in sides]
    if min(means) <= 0.0 or not arrived[1].any():
        return None
    value, at_least = means[0] / means[1], not bool(arrived[0].all())
    if min(side.n for side in sides) < INTERVAL_FROM:
        return Ratio(value, None, None, at_least)
    errors = []
    for side in sides:
        drawn = restricted_mean(*_resampled(side, rng), horizon)
        errors.append(float(np.log(np.maximum(drawn, 1e-300)).std()) * _widen(side.n))
    variance = sum(error**2 for error in errors)
    parts = sum(error**4 / (side.n - 1) for error, side in zip(errors, sides, strict=True))
    freedom = variance**2 / parts if parts > 0.0 else 1.0
    reach = float(student.ppf((1.0 + LEVEL) / 2.0, freedom)) * float(np.sqrt(variance))
    return Ratio(value, value * float(np.exp(-reach)), value * float(np.exp(reach)), at_least)


def _widen(seeds: int) -> float:
    """√(S/(S − 1)): a resample of S seeds scatters too little by this factor."""
    return float(np.sqrt(seeds / (seeds - 1)))
