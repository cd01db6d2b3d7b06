"""Differences between evaluations on the same prompts. S: seeds, P: prompts, B: resamples.

Rewards of one evaluation differ far more from prompt to prompt than from run to run, and two runs find the
same prompts hard. So prompts are compared one by one, and resampled with both their scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import t as student

from analysis.scores import PROMPTS_FROM, Floats
from analysis.stats import INTERVAL_FROM

DRAWS: Final = 10_000  # resamples of prompts: the smallest p is 1e-4
LEVEL: Final = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean difference, its 95% interval and the p-value of no difference; None where too little is known.

    Attributes:
        over: what the interval generalises to: "prompts", "seeds", "prompts and seeds", or "nothing".
        seeds: of either side.   prompts: that both were asked.   unit: "samples" where these stand for them.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    over: str
    seeds: tuple[int, int]
    prompts: int
    unit: str = "prompts"

    @property
    def sure(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0.0 or self.high < 0.0)


def paired_over_prompts(
    gain: Floats, weight: Floats, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[float, float, float]:
    """Low, high and p of D = Σ_p w_p·d_p, prompts drawn with replacement: both scores of a prompt at once.

    The interval is the 95% percentile one; p = (1 + #{|D* − D| >= |D|})/(B + 1), two-sided: D* − D is how D
    would scatter were there no difference (Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
    sections 13.3 and 16.4; Koehn, EMNLP 2004, for its use over test items).

    Args:
        gain: d [P].   weight: samples of each prompt, as a part of all, [P]; drawn with the prompt.
    """
    value = float(gain @ weight)
    picks = rng.integers(len(gain), size=(draws, len(gain)))
    drawn = (gain * weight)[picks].sum(axis=1) / weight[picks].sum(axis=1)
    low, high = np.quantile(drawn, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    # a resample that ties with D must count: rounding would drop it
    p = (1 + int((np.abs(drawn - value) >= abs(value) * (1.0 - 1e-9)).sum())) / (draws + 1)
    return float(low), float(high), p


def gain_over(before: Floats, after: Floats, weight: Floats, rng: np.random.Generator) -> Difference:
    """after − before of the same runs on the same prompts, e.g. the end of training against the base.

    Args:
        before, after: [S,P].   weight: [P].
    """
    return _difference((after - before,), weight, rng)


def between(above: Floats, below: Floats, weight: Floats, rng: np.random.Generator) -> Difference:
    """above − below of different runs on the same prompts: prompts are paired, seeds are not.

    Args:
        above: [S,P].   below: [S',P].   weight: [P].
    """
    return _difference((above, below), weight, rng)


def _difference(sides: tuple[Floats, ...], weight: Floats, rng: np.random.Generator) -> Difference:
    """The first side, less the second where there is one.

    Below three seeds a side, the runs are taken as they are and prompts resampled. From three up,
    V = V_seeds + V_prompts − V_residual estimates the variance of a mean over crossed seeds and prompts: each
    of the first two holds the residual once, and resampling both at once would count it three times (Owen,
    arXiv:0712.1111). Interval and p are Student's, with Satterthwaite's degrees of freedom.
    """
    seeds = (len(sides[0]), len(sides[-1]))
    means = [side.mean(axis=0) for side in sides]
    gain = means[0] - means[1] if len(sides) == 2 else means[0]
    value, prompts = float(gain @ weight), len(weight)
    if min(seeds) < INTERVAL_FROM:
        if prompts < PROMPTS_FROM:
            return Difference(value, None, None, None, "nothing", seeds, prompts)
        low, high, p = paired_over_prompts(gain, weight, rng)
        return Difference(value, low, high, p, "prompts", seeds, prompts)
    error, freedom = standard_error(sides, gain, weight)
    reach = float(student.ppf((1.0 + LEVEL) / 2.0, freedom)) * error
    p = float(2.0 * student.sf(abs(value) / error, freedom)) if error > 0.0 else float(value == 0.0)
    over = "seeds" if prompts < PROMPTS_FROM else "prompts and seeds"
    return Difference(value, value - reach, value + reach, p, over, seeds, prompts)


def standard_error(sides: tuple[Floats, ...], gain: Floats, weight: Floats) -> tuple[float, float]:
    """The standard error of a mean over crossed seeds and prompts, and its degrees of freedom.

    Args:
        sides: [S,P] each; their seeds are independent, their prompts the same.   gain: [P], what is averaged.
    """
    prompts = len(weight)
    parts = []  # (variance, its degrees of freedom)
    residual = 0.0
    for side in sides:
        seeds = len(side)
        of_seeds = side @ weight
        parts.append((float(of_seeds.var(ddof=1)) / seeds, seeds - 1))
        rest = side - side.mean(axis=0) - (of_seeds - of_seeds.mean())[:, None]
        spread = float((rest**2 @ weight).sum()) * prompts / max(1, (seeds - 1) * (prompts - 1))
        residual += spread * float((weight**2).sum()) / seeds
    if prompts >= PROMPTS_FROM:
        spread = float(((gain - gain @ weight) ** 2 * weight**2).sum()) * prompts / (prompts - 1)
        parts.append((spread, prompts - 1))
    over_seeds, over_prompts = (
        sum(part for part, _ in parts[: len(sides)]),
        sum(p for p, _ in parts[len(sides) :]),
    )
    variance = max(over_seeds + over_prompts - residual, over_seeds, over_prompts)
    freedom = sum(part**2 / count for part, count in parts)
    return float(np.sqrt(variance)), variance**2 / freedom if freedom > 0.0 else 1.0
