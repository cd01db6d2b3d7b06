"""A grid to runs and refusals. Both doors end here: ``-m`` brings cells, ``+sweep=`` a file. No torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablate.contract import compat
from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir, signature
from runners.compose import CONF, Composer, composing, did_you_mean

Overrides = tuple[str, ...]
SWEEP_KEYS = ("grid", "seeds", "cells", "exclude")


@dataclass(frozen=True)
class Run:
    """A run that can exist. ``asked`` holds every list of overrides that named it."""

    overrides: Overrides
    signature: str
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    asked: tuple[Overrides, ...]

    @property
    def directory(self) -> RunDir:
        """Where the run is, or will be, recorded."""
        return RunDir(Path(str(self.config["paths"]["runs"])) / self.signature)


@dataclass(frozen=True)
class Refused:
    """A cell that cannot exist, and every reason why."""

    overrides: Overrides
    reasons: tuple[str, ...]
    config: Mapping[str, Any]
    choices: Mapping[str, str]


def plan(cells: Sequence[Sequence[str]]) -> list[Run | Refused]:
    """Each distinct run, and each refusal, in the order asked for; ``+sweep=`` in a cell is expanded.

    Raises:
        UserError: some override has a typo or a wrong value; then nothing of the grid may start.
    """
    with composing() as composer:
        wanted = dict.fromkeys(own for cell in cells for own in _expand(composer, tuple(cell)))
        items = [_judge(composer, overrides) for overrides in wanted]
    return _merged(items)


def plan_line(overrides: Sequence[str]) -> list[Run | Refused]:
    """The plan of a command line whose values may be comma lists; what it tells Hydra is no part of a run."""
    own = [override for override in overrides if not key_of(override).startswith(("hydra.", "hydra/"))]
    with composing() as composer:
        cells = composer.product(own)
    return plan(cells)


def sweep_names(overrides: Sequence[str]) -> list[str]:
    """The named grids a command line asks for."""
    return [override.partition("=")[2] for override in overrides if key_of(override) == "sweep"]


def key_of(override: str) -> str:
    """``+a.b=c`` -> ``a.b``."""
    return override.lstrip("+~").partition("=")[0]


def _judge(composer: Composer, overrides: Overrides) -> Run | Refused:
    cell = composer.cell(overrides)
    reasons = compat.problems(cell.config, cell.choices, CONF)
    if reasons:
        return Refused(overrides, tuple(reasons), cell.config, cell.choices)
    return Run(overrides, signature(cell.config), cell.config, cell.choices, (overrides,))


def _merged(items: Sequence[Run | Refused]) -> list[Run | Refused]:
    found: dict[object, Run | Refused] = {}
    for item in items:
        name = item.signature if isinstance(item, Run) else item.overrides
        before = found.setdefault(name, item)
        if isinstance(before, Run) and isinstance(item, Run) and before is not item:
            found[name] = replace(before, asked=before.asked + item.asked)
    return list(found.values())


def _expand(composer: Composer, overrides: Overrides) -> Iterator[Overrides]:
    """The cells of the named grids in ``overrides``; a key said on the command line replaces the grid's."""
    named = [override for override in overrides if key_of(override) == "sweep"]
    if not named:
        yield overrides
        return
    rest = tuple(override for override in overrides if override not in named)
    for override in named:
        sweep = _checked(composer.cell([override]).config["sweep"], override)
        yield from _cells(sweep, rest)


def _checked(sweep: object, name: str) -> Mapping[str, Any]:
    if not isinstance(sweep, dict) or not sweep:
        raise UserError(f"{name}: the sweep file is empty; give it a grid, seeds or cells")
    for key, node in sweep.items():
        if key not in SWEEP_KEYS:
            near = did_you_mean(str(key), SWEEP_KEYS)
            raise UserError(f"{name}: a sweep has no '{key}'{near}; it has {', '.join(SWEEP_KEYS)}")
        lists = node.values() if key == "grid" and isinstance(node, dict) else [node]
        for values in lists:
            if not isinstance(values, list):
                raise UserError(f"{name}: {key} must hold lists, not {values!r}")
        inner = {"cells": list, "exclude": dict}.get(str(key), object)
        for values in node:
            if not isinstance(values, inner):
                raise UserError(f"{name}: {values!r} under {key} must be a {inner.__name__} of overrides")
    return sweep


def _cells(sweep: Mapping[str, Any], rest: Overrides) -> Iterator[Overrides]:
    grid = dict(sweep.get("grid") or {})
    if "seeds" in sweep:
        grid["seed"] = sweep["seeds"]
    said = {key_of(override) for override in rest}
    for listed in sweep.get("cells") or [[]]:
        own = tuple(str(override) for override in listed if key_of(str(override)) not in said)
        named = said | {key_of(override) for override in own}  # a cell replaces what the grid says
        axes = [
            [f"{key}={literal(v)}" for v in values]
            for key, values in grid.items()
            if key_of(key) not in named
        ]
        for point in itertools.product(*axes):
            cell = own + point + rest
            if not _excluded(cell, sweep.get("exclude") or []):
                yield cell


def _excluded(cell: Overrides, rules: Sequence[Mapping[str, object]]) -> bool:
    values = {key_of(override): override.partition("=")[2] for override in cell}

    def meets(rule: Mapping[str, object]) -> bool:
        lists = {key: value if isinstance(value, list) else [value] for key, value in rule.items()}
        return all(values.get(key) in [literal(value) for value in options] for key, options in lists.items())

    return any(meets(rule) for rule in rules)


def literal(value: object) -> str:
    """A value of a sweep file as the right side of an override: True -> true, [1, a] -> [1,a]."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(literal(item) for item in value) + "]"
    return json.dumps(value)
