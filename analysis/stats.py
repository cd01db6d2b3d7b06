"""Aggregates over seeds. S: seeds, H: points of a grid. NumPy only; randomness comes in as a Generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import t as student

from analysis.curves import Floats

Statistic = Callable[[Floats], Floats]  # [..., S, H] -> [..., H]

INTERVAL_FROM: Final = 3  # seeds; of one or two, an interval would say nothing
RESAMPLES: Final = 2000


def mean(values: Floats) -> Floats:
    """(1/S)·Σ_s x_s over the second-last axis: [..., S, H] -> [..., H]."""
    return np.asarray(values.mean(axis=-2))


def iqm(values: Floats) -> Floats:
    """Mean of the middle half, without the floor(S/4) smallest and largest of S: [..., S, H] -> [..., H].

    Agarwal et al., arXiv:2108.13264, section 4.3. Up to three seeds it is the mean. A NaN makes a column NaN.
    """
    seeds = values.shape[-2]
    cut = seeds // 4
    middle = np.sort(values, axis=-2)[..., cut : seeds - cut, :].mean(axis=-2)
    return np.where(np.isnan(values).any(axis=-2), np.nan, middle)


STATISTICS: Final[dict[str, Statistic]] = {"mean": mean, "iqm": iqm}


def bootstrap_ci(
    values: Floats, statistic: Statistic, rng: np.random.Generator, *, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Percentile bootstrap: the (1 ± level)/2 quantiles of statistic(x*), x* = S seeds with replacement.

    Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 13.3. A resample takes whole curves,
    so points of one curve stay together. With few seeds the interval is too narrow: it never leaves the range
    of the seeds.

    Args:
        values: [S,H].   level: in (0, 1).

    Returns:
        low [H], high [H]; NaN where a value is.

    Raises:
        ValueError: fewer than three seeds, or a level outside (0, 1).
    """
    if values.ndim != 2 or values.shape[0] < INTERVAL_FROM:
        raise ValueError(f"values {values.shape} must be [S,H] with S >= {INTERVAL_FROM} for an interval")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level = {level} must lie in (0, 1)")
    seeds = values.shape[0]
    picks = rng.integers(seeds, size=(RESAMPLES, seeds))
    drawn = statistic(values[picks])
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
    return low, high


def studentized_ci(
    values: Floats, statistic: Statistic, rng: np.random.Generator, *, level: float = 0.95
) -> tuple[Floats, Floats]:
    """statistic(x) ± t·√(S/(S − 1))·se*: se* over resampled seeds, t Student's quantile with S − 1 degrees.

    For the mean this is Student's interval, which covers as often as it says from three seeds up, where the
    percentile interval is too narrow by more than a factor √(S/(S − 1)) (Hesterberg, arXiv:1411.5279,
    sections 4.3 and 5.1).

    Args:
        values: [S,H].   level: in (0, 1).

    Returns:
        low [H], high [H]; NaN where a value is.

    Raises:
        ValueError: fewer than three seeds.
    """
    if values.ndim != 2 or values.shape[0] < INTERVAL_FROM:
        raise ValueError(f"values {values.shape} must be [S,H] with S >= {INTERVAL_FROM} for an interval")
    error, freedom = _error(values, statistic, rng)
    reach = float(student.ppf((1.0 + level) / 2.0, freedom)) * error
    value = statistic(values)
    return value - reach, value + reach


def _error(values: Floats, statistic: Statistic, rng: np.random.Generator) -> tuple[Floats, int]:
    """√(S/(S − 1))·se* of a statistic over seeds [H], for the mean without resampling; and S − 1."""
    seeds = values.shape[0]
    if statistic is mean:
        return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(seeds)), seeds - 1
    drawn = statistic(values[rng.integers(seeds, size=(RESAMPLES, seeds))])
    return np.asarray(drawn.std(axis=0) * np.sqrt(seeds / (seeds - 1))), seeds - 1


def hours_to(hours: Floats, value: Floats, threshold: float) -> float:
    """min{hours_r : value_r >= threshold}: device-hours of the first evaluation there; inf if none is."""
    reached = np.flatnonzero(value >= threshold)
    return float(hours[reached[0]]) if reached.size else float("inf")


@dataclass(frozen=True)
class Estimate:
    """An aggregate over n seeds; low and high are None below three seeds."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    def text(self, digits: int = 3) -> str:
        """``0.621 [0.602, 0.640]``"""
        value = f"{self.value:.{digits}f}"
        if self.low is None or self.high is None:
            return value
        return f"{value} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def estimate(values: Floats, statistic: Statistic, rng: np.random.Generator) -> Estimate:
    """The statistic of values [S] with its 95% interval, where there are seeds enough for one."""
    column = values[:, None]
    value, n = float(statistic(column)[0]), len(values)
    if n < INTERVAL_FROM:
        return Estimate(value, n)
    low, high = studentized_ci(column, statistic, rng)
    return Estimate(value, n, float(low[0]), float(high[0]))


def separated(above: Floats, below: Floats, statistic: Statistic, rng: np.random.Generator) -> bool | None:
    """Whether the 95% interval (Welch) of statistic(above [S]) − statistic(below [S']) lies above zero.

    None where either has fewer than three seeds: then the order is not established.
    """
    if min(len(above), len(below)) < INTERVAL_FROM:
        return None
    parts = [_error(values[:, None], statistic, rng) for values in (above, below)]
    variances = [(float(error[0]) ** 2, freedom) for error, freedom in parts]
    variance = sum(part for part, _ in variances)
    gain = float(statistic(above[:, None])[0] - statistic(below[:, None])[0])
    if variance == 0.0:
        return gain > 0.0
    freedom = variance**2 / sum(part**2 / count for part, count in variances)
    return bool(gain > float(student.ppf(0.975, freedom)) * np.sqrt(variance))
