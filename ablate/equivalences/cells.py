"""The planned runs by the update they make, and in what else they differ. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ablate.contract.rundir import NOT_IDENTITY
from runners.plan import Overrides, Run

# Groups a probe exercises whole: where gradients agree, these may differ and the runs are still the same.
MEASURED = ("objective", "estimator", "sampler", "start", "advantage", "regularizer")
# Keys a probe does not read: they make other runs of one update.
UNREAD = ("seed", "optimizer", "evaluation", "prompts")
WITHOUT_EFFECT = (*NOT_IDENTITY, "checkpoint")
SIZES_IN_MEMORY = ("batch.micro", "batch.rollout")  # no effect but on objectives that compare whole groups
_LONGEST_VALUE = 40

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Update:
    """Runs with the same parts, sizes, snapshots and guidance; they are probed once.

    Attributes:
        label: the overrides these runs share and others lack.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.runs[0].config

    @cached_property
    def rests(self) -> list[Settings]:
        """Of each run, what agreement of gradients says nothing about, by dotted key."""
        return [dict(_flat(_without(run.config, MEASURED + WITHOUT_EFFECT))) for run in self.runs]


def updates(runs: Sequence[Run]) -> list[Update]:
    """The different updates of a grid, in its order."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        name = json.dumps(_without(run.config, UNREAD + WITHOUT_EFFECT), sort_keys=True)
        found.setdefault(name, []).append(run)
    shared = [_common(own) for own in found.values()]
    if len(set(shared)) < len(shared):  # what tells them apart is no override that their runs share
        shared = [own[0].overrides for own in found.values()]
    everywhere = set(shared[0]).intersection(*shared) if len(shared) > 1 else set()
    labels = (" ".join(_short(word) for word in words if word not in everywhere) for words in shared)
    return [
        Update(label or "(default)", tuple(own)) for label, own in zip(labels, found.values(), strict=True)
    ]


def differences(a: Update, b: Update, ignored: Sequence[str] = ()) -> list[str]:
    """In what the most alike runs of two updates differ, as ``key=one|other``; empty if not even in that."""
    told = (_told(one, other, ignored) for one in a.rests for other in b.rests)
    nearest = next(told)
    for differing in told:
        if not nearest:
            break
        nearest = min(nearest, differing, key=len)
    return nearest


def _told(a: Settings, b: Settings, ignored: Sequence[str]) -> list[str]:
    keys = [key for key in {**a, **b} if key not in ignored and a.get(key) != b.get(key)]
    parts = [key.removesuffix("._target_") for key in keys if key.endswith("._target_")]
    keys = [key for key in keys if not any(key.startswith(f"{part}.") for part in parts)]
    classes = [
        (part, *(str(side.get(f"{part}._target_")).rpartition(".")[2] for side in (a, b))) for part in parts
    ]
    values = [(key, _value(a.get(key)), _value(b.get(key))) for key in keys]
    return [f"{key}={one}|{other}" for key, one, other in [*classes, *values]]


def _without(config: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: node for key, node in config.items() if key not in keys}


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key not in ("requires", "provides"):
            yield f"{prefix}{key}", value


def _common(runs: Sequence[Run]) -> Overrides:
    first, *others = (run.overrides for run in runs)
    return tuple(word for word in first if all(word in other for other in others))


def _short(override: str) -> str:
    key, equals, value = override.partition("=")
    return f"{key}{equals}{_value(value)}"


def _value(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
