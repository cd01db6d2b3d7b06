"""Names for arms, made of what differs between them: first the choices, then single config keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ablate.contract import rundir
from ablate.contract.rundir import NOT_IDENTITY
from analysis.load import flatten

AXES: Final = ("objective", "estimator", "sampler")
FIRST: Final = ("policy", *AXES)
JOIN: Final = " · "
UNSET: Final = "None"  # how a group without a choice is recorded


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flat config that makes an arm: all that changes what is learned, but the seed."""
    return flatten({key: value for key, value in rundir.identity(config).items() if key != "seed"})


def differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values are not the same in all rows, in order of first appearance; a missing key differs."""
    names = dict.fromkeys(key for row in rows for key in row)
    return [key for key in names if any(key not in row or row[key] != rows[0].get(key) for row in rows)]


def label_arms(choices: Sequence[Mapping[str, str]], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One label per arm, all different if the arms are: the experiment's name where each arm has its own.

    Args:
        choices: {group: option} per arm.   configs: the flat config per arm, as ``identity`` gives it.
    """
    experiments = [chosen.get("experiment", UNSET) for chosen in choices]
    if UNSET not in experiments and len({*experiments}) == len(experiments) > 1:
        return experiments
    different = differing(choices)
    groups = [group for group in FIRST if group in different] or list(AXES)
    labels = [JOIN.join(chosen[group] for group in groups if group in chosen) for chosen in choices]
    told = (*FIRST, *NOT_IDENTITY)
    others = [{group: option for group, option in chosen.items() if group not in told} for chosen in choices]
    return _told_apart(_told_apart(labels, others), configs)


def _told_apart(labels: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels that several arms share, with the facts that differ among these arms."""
    told = list(labels)
    for label in set(labels):
        same = [index for index, other in enumerate(labels) if other == label]
        telling = differing([facts[index] for index in same])
        for index in same:
            words = (f"{key}={facts[index].get(key, 'unset')}" for key in telling)
            told[index] = JOIN.join(filter(None, [label, *words]))
    return told
