"""Every objective x estimator x sampler is refused with a reason, or trains two iterations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from matrix import options
from running import CONF

from ablate import train
from ablate.clock import Clock
from ablate.contract import compat, keys
from ablate.contract.rundir import RunDir
from ablate.distributed import Distributed
from ablate.loop import Progress, iterate
from runners.compose import composing

AXES = ("objective", "estimator", "sampler")
SIZES = (
    "logging.wandb=disabled",
    "batch.prompts=2",
    "batch.group_size=4",
    "batch.micro=8",
    "optimizer.lr=1.0e-5",
)


@cache
def processes() -> Distributed:
    return Distributed(gpus=0)


@cache
def base(group: str = "", option: str = "") -> Mapping[str, Any]:
    """The composed defaults, with one group's choice changed; composed once per choice, not once per cell."""
    with composing() as composer:
        return composer.cell([*SIZES, *([f"{group}={option}"] if group else [])]).config


@cache
def tags(group: str, option: str) -> tuple[frozenset[str], frozenset[str]]:
    node = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    return frozenset(node.get("requires", ())), frozenset(node.get("provides", ()))


def neighbours(choices: Mapping[str, str]) -> dict[str, str]:
    """Options of the other groups that give what the three still miss, so that only the three can refuse."""
    found = dict(choices)
    for group in ("advantage", "snapshots"):
        missing = {tag for axis in AXES for tag in tags(axis, choices[axis])[0]}
        default = {"advantage": "zscore_group", "snapshots": "nft_fast"}[group]
        candidates = [default, *options(group)]
        found[group] = max(candidates, key=lambda name: len(tags(group, name)[1] & missing))
    return found


def config_of(choices: Mapping[str, str]) -> dict[str, Any]:
    return dict(base()) | {group: base(group, option)[group] for group, option in choices.items()}


@pytest.mark.parametrize("estimator", options("estimator"))
@pytest.mark.parametrize("objective", options("objective"))
def test_refused_or_trains(objective: str, estimator: str, tmp_path: Path) -> None:
    ran = 0
    for sampler in options("sampler"):
        choices = neighbours({"objective": objective, "estimator": estimator, "sampler": sampler})
        config = config_of(choices)
        reasons = compat.problems(config, choices, CONF)
        if reasons:
            assert all("requires" in reason and "choose" in reason for reason in reasons)
            continue
        lab = train.assemble(RunDir(tmp_path / sampler), config, processes())
        now, clock = Progress(), Clock(processes(), 0.0)
        for iteration in (1, 2):
            now, row = iterate(lab, now, clock)
            assert now.iteration == iteration
            assert math.isfinite(float(row[keys.GRAD_NORM])), choices
        ran += 1
    # a cell that needs what no sampler gives is refused everywhere; one that runs, runs on some sampler
    assert ran or all(
        compat.problems(config_of(neighbours(dict(zip(AXES, cell, strict=True)))), {}, CONF)
        for cell in ((objective, estimator, sampler) for sampler in options("sampler"))
    )
