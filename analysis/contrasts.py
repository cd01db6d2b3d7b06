"""Single numbers for a whole curve or a pair of arms. S: seeds, R: evaluations of a run."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from analysis.curves import SLACK, Curve, Floats
from analysis.stats import Estimate

LEVEL: Final = 0.95


def area_under(curve: Curve, budget: float) -> float:
    """(1/H)·∫_0^H reward(h) dh: the mean reward on the way, by the trapezoidal rule between evaluations.

    Args:
        budget: H, device-hours; the curve is cut there, and held after its last evaluation within the slack.

    Raises:
        ValueError: the run ended before H, or H is not positive.
    """
    if budget <= 0.0 or curve.end * (1.0 + SLACK) < budget:
        raise ValueError(f"budget = {budget} h must lie in (0, {curve.end}], where the run was evaluated")
    inside = curve.hours < budget
    hours = np.append(curve.hours[inside], budget)
    value = np.append(curve.value[inside], np.interp(budget, curve.hours, curve.value))
    return float(np.trapezoid(value, hours) / (hours[-1] - hours[0])) if len(hours) > 1 else float(value[0])


def probability_of_improvement(above: Floats, below: Floats) -> Estimate:
    """P(X > Y) + P(X = Y)/2 of a run of one arm against a run of the other, with its 95% interval.

    The Mann–Whitney share of pairs won, as Agarwal et al., arXiv:2108.13264, section 4.3. A bootstrap of a
    few seeds that do not overlap would say [1, 1], so the interval is the score interval of Newcombe,
    Statistics in Medicine 25 (2006) 559, method 5: all θ with (θ − θ̂)² <= z²·V(θ), where
    V(θ) = θ(1 − θ)·(1 + M·((1 − θ)/(2 − θ) + θ/(1 + θ)))/(S·S') and M = (S + S')/2 − 1.

    Args:
        above: [S].   below: [S'].
    """
    wins = (above[:, None] > below[None, :]) + 0.5 * (above[:, None] == below[None, :])
    share, pairs = float(wins.mean()), len(above) * len(below)
    z, half = float(norm.ppf((1.0 + LEVEL) / 2.0)), (len(above) + len(below)) / 2.0 - 1.0

    def excess(theta: float) -> float:
        odds = (1.0 - theta) / (2.0 - theta) + theta / (1.0 + theta)
        variance = theta * (1.0 - theta) * (1.0 + half * odds) / pairs
        return float((theta - share) ** 2 - z**2 * variance)

    inside = min(max(share, 1e-9), 1.0 - 1e-9)  # at 0 and 1 the variance is zero, a root that bounds nothing
    low = 0.0 if share == 0.0 else float(brentq(excess, 0.0, inside))
    high = 1.0 if share == 1.0 else float(brentq(excess, inside, 1.0))
    return Estimate(share, min(len(above), len(below)), low, high)
