"""How much of the variation between runs is due to which choice. N: runs, C: cells, F: factors.

A cell is one combination of choices; its runs differ in their seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import Final

import numpy as np
import numpy.typing as npt

from ablate.contract.errors import UserError
from analysis.scores import Floats

Groups = npt.NDArray[np.int64]  # [N], the group of each run
RESAMPLES: Final = 1000
LEVEL: Final = 0.95
SEED: Final = "seed"
TIMES: Final = " × "


@dataclass(frozen=True)
class Share:
    """A part of the variance, just below zero at times where there is nothing; ``eta`` is not corrected."""

    name: str
    value: float
    low: float
    high: float
    eta: float


@dataclass(frozen=True)
class Decomposition:
    """Shares that sum to one.

    Attributes:
        method: "anova" for a complete grid with equal seeds, "shapley" for any other.
        n: runs.   cells: combinations that exist, of ``whole`` that the grid would have.
    """

    method: str
    shares: tuple[Share, ...]
    n: int
    cells: int
    whole: int


def decompose(
    factors: Mapping[str, Sequence[str]], outcome: Floats, rng: np.random.Generator
) -> Decomposition:
    """The shares of factors, interactions and seed in the variance of an outcome.

    Complete grid, equal seeds: ω² = (SS − df·MSE)/(SS_total + MSE) of each effect (Hays; Olejnik & Algina,
    Psychological Methods 8:434, Eq. 2), which estimates the share that η² = SS/SS_total overstates by
    chance. Any other grid: effects overlap, and each factor gets its Shapley share of the explained part, the
    mean over all orders of what it adds (Lindeman, Merenda & Gold, 1980; Grömping, The American Statistician
    61:139); an interaction is split between its factors, and a factor that stands for another shares credit.
    Intervals: 95% percentile bootstrap of seeds within cells; cell means are first shrunk by the part that
    seeds alone would make, so that resampling does not count this noise twice.

    Args:
        factors: {factor: the option of each run, [N]}.   outcome: [N], e.g. reward at a budget.

    Raises:
        UserError: no factor varies, an outcome is not finite, or no cell has two seeds.
    """
    varying = {name: list(options) for name, options in factors.items() if len(set(options)) > 1}
    if not varying:
        raise UserError("nothing varies between the runs: there is no variance to divide between choices")
    if not np.all(np.isfinite(outcome)):
        raise UserError("an outcome is not finite: its variance cannot be divided")
    design = _Design.of(varying)
    if len(outcome) <= design.cells:
        raise UserError("every cell has one seed: what is due to chance cannot be told; run more seeds")
    raw, eta = design.shares(outcome)
    drawn, _ = design.shares(_resamples(design, outcome, rng))
    low, high = np.quantile(drawn, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0], axis=0)
    shares = tuple(
        Share(name, *(float(x[place]) for x in (raw, low, high, eta)))
        for place, name in enumerate(design.names)
    )
    return Decomposition(design.method, shares, len(outcome), design.cells, design.whole)


@dataclass(frozen=True)
class _Design:
    """Which run belongs to which group, for every subset of the factors; the full set makes the cells."""

    subsets: tuple[tuple[str, ...], ...]  # all but the empty one, small before large
    groups: tuple[Groups, ...]  # of each subset
    balanced: bool
    whole: int

    @classmethod
    def of(cls, factors: Mapping[str, Sequence[str]]) -> _Design:
        names = tuple(factors)
        subsets = tuple(part for size in range(1, len(names) + 1) for part in combinations(names, size))
        rows = {part: list(zip(*(factors[name] for name in part), strict=True)) for part in subsets}
        groups = tuple(
            np.array([sorted(set(rows[part])).index(row) for row in rows[part]]) for part in subsets
        )
        counts = np.bincount(groups[-1])
        whole = int(np.prod([len(set(options)) for options in factors.values()]))
        return cls(subsets, groups, len(counts) == whole and len(set(counts.tolist())) == 1, whole)

    @property
    def cells(self) -> int:
        return int(self.groups[-1].max()) + 1

    @property
    def method(self) -> str:
        return "anova" if self.balanced else "shapley"

    @property
    def names(self) -> list[str]:
        """Effects, or factors; and the seed."""
        parts = self.subsets if self.balanced else [part for part in self.subsets if len(part) == 1]
        return [*(TIMES.join(part) for part in parts), SEED]

    def shares(self, outcome: Floats) -> tuple[Floats, Floats]:
        """The corrected shares and the plain ones, in the order of ``names``: [...,N] -> twice [...,names].

        Both sum to one; if all outcomes are equal, all of it is the seed's.
        """
        centred = outcome - outcome.mean(axis=-1, keepdims=True)
        total = np.maximum((centred**2).sum(axis=-1), 1e-300)
        between = [_between(centred, group) for group in self.groups]
        error = (total - between[-1]) / (outcome.shape[-1] - self.cells)
        counts = [int(group.max()) for group in self.groups]  # degrees of freedom, nested sums included
        plain = {part: ss / total for part, ss in zip(self.subsets, between, strict=True)}
        fair = {
            part: (ss - df * error) / (total + error)
            for part, ss, df in zip(self.subsets, between, counts, strict=True)
        }
        split = _effects if self.balanced else _shapley
        return split(fair), split(plain)


def _between(centred: Floats, group: Groups) -> Floats:
    """Σ over groups of n_g·mean_g², the sum of squares that the groups explain: [...,N] -> [...]."""
    member = np.eye(int(group.max()) + 1)[group]  # [N,G]
    return np.asarray(((centred @ member) ** 2 / member.sum(axis=0)).sum(axis=-1))


def _effects(explained: Mapping[tuple[str, ...], Floats]) -> Floats:
    """What each subset explains beyond its own subsets, then what nothing explains."""
    own: dict[tuple[str, ...], Floats] = {}
    for part, value in explained.items():
        own[part] = np.asarray(value - sum(own[less] for less in own if set(less) < set(part)))
    return np.stack([*own.values(), np.asarray(1.0 - sum(own.values()))], axis=-1)


def _shapley(explained: Mapping[tuple[str, ...], Floats]) -> Floats:
    """Each factor's mean gain over all orders in which factors may come, then what nothing explains."""
    value = {frozenset(part): gain for part, gain in explained.items()}
    value[frozenset()] = np.zeros_like(next(iter(explained.values())))
    names = [part[0] for part in explained if len(part) == 1]
    shares = []
    for name in names:
        others = [other for other in names if other != name]
        gain = value[frozenset()]
        for size in range(len(names)):
            weight = factorial(size) * factorial(len(names) - size - 1) / factorial(len(names))
            for part in combinations(others, size):
                gain = gain + weight * (value[frozenset({*part, name})] - value[frozenset(part)])
        shares.append(gain)
    return np.stack([*shares, np.asarray(1.0 - sum(shares))], axis=-1)


def _resamples(design: _Design, outcome: Floats, rng: np.random.Generator) -> Floats:
    """Outcomes of grids as this one might have come out: [B,N]."""
    cell = design.groups[-1]
    count = np.bincount(cell)
    means = np.bincount(cell, weights=outcome) / count
    # of n seeds, residuals are too small by √((n − 1)/n); a cell of one seed has none and borrows from others
    rest = (outcome - means[cell]) * np.sqrt(count[cell] / np.maximum(1, count[cell] - 1))
    pool = rest[count[cell] > 1]
    freedom = len(outcome) - design.cells
    error = float(((outcome - means[cell]) ** 2).sum()) / freedom
    fitted = _shrunk(design, outcome, error)
    own = [np.flatnonzero(cell == place) for place in range(design.cells)]
    noise = np.empty((RESAMPLES, len(outcome)))
    for members in own:
        source = rest[members] if len(members) > 1 else pool
        noise[:, members] = source[rng.integers(len(source), size=(RESAMPLES, len(members)))]
    return np.asarray(fitted + noise)


def _shrunk(design: _Design, outcome: Floats, error: float) -> Floats:
    """Fitted values [N] whose effects have the sums of squares that remain after seeds' part is taken off."""
    centred = outcome - outcome.mean()
    if not design.balanced:
        group = design.groups[-1]
        fitted = (np.bincount(group, weights=centred) / np.bincount(group))[group]
        return np.asarray(outcome.mean() + fitted * _keep(fitted, design.cells - 1, error))
    effects: dict[tuple[str, ...], Floats] = {}
    freedom: dict[tuple[str, ...], int] = {}
    for part, group in zip(design.subsets, design.groups, strict=True):
        inner = [less for less in effects if set(less) < set(part)]
        fitted = (np.bincount(group, weights=centred) / np.bincount(group))[group]
        effects[part] = fitted - sum((effects[less] for less in inner), np.zeros_like(fitted))
        freedom[part] = int(group.max()) - sum(freedom[less] for less in inner)
    kept = [effect * _keep(effect, freedom[part], error) for part, effect in effects.items()]
    return np.asarray(outcome.mean() + sum(kept, np.zeros_like(outcome)))


def _keep(effect: Floats, freedom: int, error: float) -> float:
    """√(1 − df·MSE/SS), or 0 where seeds alone would make as much."""
    size = float((effect**2).sum())
    return float(np.sqrt(max(0.0, 1.0 - freedom * error / size))) if size > 0.0 else 0.0
