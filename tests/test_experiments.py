"""Every preset of conf/experiment composes for every policy it is meant for, and trains on the smallest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from running import CONF

from ablate import build, train
from ablate.clock import Clock
from ablate.contract import compat
from ablate.contract.rundir import RunDir
from ablate.distributed import Distributed
from ablate.loop import Progress, iterate
from runners.compose import Cell, composing

EXPERIMENTS = sorted(
    str(path.relative_to(CONF / "experiment").with_suffix(""))
    for path in (CONF / "experiment").rglob("*.yaml")
)
POLICIES = ("mixture2d", "shapes", "sd35m")


def cell(experiment: str, policy: str, *overrides: str) -> Cell:
    with composing() as composer:
        return composer.cell(
            [f"experiment={experiment}", f"policy={policy}", "logging.wandb=disabled", *overrides]
        )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_composes(experiment: str, policy: str) -> None:
    made = cell(experiment, policy)
    assert compat.problems(made.config, made.choices, CONF) == []
    build.light(made.config)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_trains(experiment: str, tmp_path: Path) -> None:
    sizes = ("batch.prompts=2", "batch.group_size=4", "batch.micro=8")
    config = cell(experiment, "mixture2d", *sizes).config
    processes = Distributed(gpus=0)
    lab = train.assemble(RunDir(tmp_path), config, processes)
    now, clock = Progress(), Clock(processes, 0.0)
    for _ in range(2):
        now, _ = iterate(lab, now, clock)
    assert now.iteration == 2


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_says_where_it_is_from(experiment: str) -> None:
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    assert experiment.startswith(("demo/", "floor/")) or re.search(r"arXiv:\d{4}\.\d{5}", text)


@pytest.mark.parametrize("path", sorted((CONF / "setting").rglob("*.yaml")), ids=str)
def test_a_setting_changes_numbers_of_an_experiment_and_never_a_part(path: Path) -> None:
    policy, _, experiment = str(path.relative_to(CONF / "setting").with_suffix("")).partition("/")
    assert policy in POLICIES
    assert experiment in EXPERIMENTS

    def names(node: object) -> set[str]:
        if not isinstance(node, dict):
            return set()
        return set(node) | {name for value in node.values() for name in names(value)}

    assert "_target_" not in names(yaml.safe_load(path.read_text()))
