"""Rows of options that cover every pair of options which fit; pairs that never fit get a row of their own.

The full product of all groups has millions of cells; how two parts meet shows in any row that has both.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import yaml
from running import CONF

AXES = (
    "objective",
    "estimator",
    "sampler",
    "start",
    "advantage",
    "regularizer",
    "snapshots",
    "policy.tuning",
)
_TRIES = 40
Row = Mapping[str, str]
Pair = frozenset[tuple[str, str]]


@cache
def options(group: str) -> tuple[str, ...]:
    """The options of a group, as its folder has them."""
    if group == "policy.tuning":
        return ("full", "lora")
    return tuple(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


@cache
def _tags(group: str, option: str) -> tuple[frozenset[str], frozenset[str]]:
    """What an option requires and provides."""
    if group == "policy.tuning":
        return frozenset(), frozenset()
    node = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    return frozenset(node.get("requires", ())), frozenset(node.get("provides", ()))


def fits(row: Row) -> bool:
    """Every requirement is provided by some option of the row."""
    tags = [_tags(group, option) for group, option in row.items()]
    provided = frozenset[str]().union(*(provides for _, provides in tags))
    return all(requires <= provided for requires, _ in tags)


def _mended(row: Row, fixed: Row, chance: random.Random) -> Row:
    """Where something required is missing, take an option that provides it, but leave the fixed ones."""
    for group in AXES:
        for tag in sorted(_tags(group, row[group])[0]):
            free = [(g, o) for g in AXES if g not in fixed for o in options(g) if tag in _tags(g, o)[1]]
            if free and not any(tag in _tags(g, o)[1] for g, o in row.items()):
                provider, option = chance.choice(free)
                row = {**row, provider: option}
    return row


def _pairs(row: Row) -> set[Pair]:
    return {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}


def covering_rows(seed: int = 0) -> Iterator[tuple[str, ...]]:
    """Overrides of each row, greedily chosen; the same rows for the same conf/."""
    chance = random.Random(seed)
    wanted = {
        frozenset({(a, x), (b, y)})
        for a, b in itertools.combinations(AXES, 2)
        for x, y in itertools.product(options(a), options(b))
    }
    for pair in sorted(wanted, key=sorted):
        if pair not in wanted:
            continue
        fixed = dict(sorted(pair))
        row = _best(fixed, wanted, chance)
        wanted -= _pairs(row) if row else {pair}
        yield tuple(f"{group}={option}" for group, option in (row or fixed).items())


def _best(fixed: Row, wanted: set[Pair], chance: random.Random) -> Row | None:
    """A fitting row with the ``fixed`` options that covers most of what is wanted; None if none was found."""
    found: tuple[int, Row | None] = (0, None)
    for _ in range(_TRIES):
        row = _mended(
            {group: fixed.get(group) or chance.choice(options(group)) for group in AXES}, fixed, chance
        )
        if fits(row):
            found = max(found, (len(_pairs(row) & wanted), row), key=_first)
    return found[1]


def _first(scored: Sequence[object]) -> int:
    count = scored[0]
    assert isinstance(count, int)
    return count
