"""A grid becomes the same runs and refusals by either door; a mistake is told before anything starts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ablate.contract.errors import UserError
from runners import submit
from runners.compose import CONF, composing
from runners.machine import Machine
from runners.plan import Refused, Run, literal, plan, plan_line
from runners.submit import Fate

GRID = ("objective=epg,pepg", "estimator=elbo,trajectory", "sampler=ode,sde", "policy=mixture2d", "seed=0,1")


def outcomes(items: Sequence[Run | Refused]) -> dict[str, object]:
    """Cell by its overrides in any order: its signature, or why it cannot exist."""
    return {
        " ".join(sorted(item.overrides)): item.signature if isinstance(item, Run) else item.reasons
        for item in items
    }


@pytest.fixture
def conf(tmp_path: Path) -> Iterator[Path]:
    """A copy of conf/ that a test may add a sweep to, in use while the test runs."""
    folder = Path(shutil.copytree(CONF, tmp_path / "conf"))
    with initialize_config_dir(str(folder), version_base="1.3"):
        yield folder


def sweep(conf: Path, **content: Any) -> None:
    (conf / "sweep").mkdir(exist_ok=True)
    (conf / "sweep" / "probe.yaml").write_text(yaml.safe_dump(content))


def test_golden_grid() -> None:
    items = plan_line(GRID)
    expected = {
        f"estimator={e} objective={o} policy=mixture2d sampler={s} seed={seed}": (e, s)
        != ("trajectory", "ode")
        for o in ("epg", "pepg")
        for e in ("elbo", "trajectory")
        for s in ("ode", "sde")
        for seed in (0, 1)
    }
    assert {cell: isinstance(told, str) for cell, told in outcomes(items).items()} == expected
    assert len({item.signature for item in items if isinstance(item, Run)}) == 12
    for item in items:
        if isinstance(item, Refused):
            (reason,) = item.reasons
            assert reason.startswith(
                "estimator=trajectory requires 'transition', which sampler=ode does not provide; choose "
            )
            assert "sampler=sde" in reason


def test_both_doors_give_the_same(conf: Path) -> None:
    axes = {"objective": ["epg", "pepg"], "estimator": ["elbo", "trajectory"], "sampler": ["ode", "sde"]}
    sweep(conf, grid=axes | {"policy": ["mixture2d"]}, seeds=[0, 1])
    assert outcomes(plan_line(GRID)) == outcomes(plan_line(["+sweep=probe"]))


def test_the_command_line_narrows_a_sweep(conf: Path) -> None:
    sweep(conf, grid={"objective": ["epg", "pepg"], "batch.updates": [1, 2]}, seeds=[0, 1])
    cells = {item.overrides for item in plan_line(["+sweep=probe", "seed=7", "batch.updates=4"])}
    assert cells == {(f"objective={name}", "seed=7", "batch.updates=4") for name in ("epg", "pepg")}


def test_listed_cells_are_crossed_and_excluded(conf: Path) -> None:
    sweep(
        conf,
        cells=[["objective=epg"], ["objective=grpo", "sampler=sde"]],
        grid={"estimator": ["elbo", "trajectory"]},
        exclude=[{"objective": "epg", "estimator": ["trajectory", "elbo_group"]}],
    )
    assert [item.overrides for item in plan_line(["+sweep=probe"])] == [
        ("objective=epg", "estimator=elbo"),
        ("objective=grpo", "sampler=sde", "estimator=elbo"),
        ("objective=grpo", "sampler=sde", "estimator=trajectory"),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"seed": [1]}, ["seed", "seeds"]),
        ({"grid": {"seed": 1}}, ["lists", "1"]),
        ({}, ["empty"]),
        ({"cells": ["a=b"]}, ["a=b", "list"]),
    ],
)
def test_a_sweep_file_is_checked(conf: Path, content: dict[str, Any], words: list[str]) -> None:
    sweep(conf, **content)
    with pytest.raises(UserError) as told:
        plan_line(["+sweep=probe"])
    assert all(word in str(told.value) for word in words)


def test_an_experiment_moves_what_follows_the_policy(conf: Path) -> None:
    (conf / "experiment").mkdir(exist_ok=True)
    lines = ["# @package _global_", "defaults:", "  - override /policy: shapes", "  - override /sampler: sde"]
    (conf / "experiment" / "probe.yaml").write_text("\n".join(lines) + "\n")
    (shapes,) = plan([["experiment=probe"]])
    followers = ("policy", "prompts", "reward", "scale")
    assert [shapes.choices[group] for group in followers] == ["shapes"] * 4
    assert shapes.choices["sampler"] == "sde"
    (plane,) = plan([["experiment=probe", "policy=mixture2d", "reward=shapes"]])
    assert [plane.choices[group] for group in followers] == ["mixture2d", "mixture2d", "shapes", "mixture2d"]


def test_duplicates_are_one_run_under_every_name() -> None:
    (run,) = plan([("seed=0",), ("objective=epg", "seed=0"), ("seed=0",), ("optimizer.lr=0.001",)])
    assert isinstance(run, Run)
    assert run.asked == (("seed=0",), ("objective=epg", "seed=0"), ("optimizer.lr=0.001",))


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        (("optimizer.weight_decay=0",), True),  # 0 and 0.0 are one number
        (("resources.slots=3", "logging.wandb=disabled", "paths.runs=elsewhere"), True),
        (("seed=1",), False),
        (("optimizer.lr=2e-3",), False),
        (("sampler.num_steps=11",), False),
    ],
)
def test_signature(overrides: tuple[str, ...], same: bool) -> None:
    default, changed = (plan([cell])[0] for cell in ((), overrides))
    assert isinstance(default, Run) and isinstance(changed, Run)
    assert (default.signature == changed.signature) is same


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer.betas=[0.8,0.9]", "seed=3"),
        ("+policy.guidance.theta=4.5", "objective=pepg", "objective.ratio=false"),
        ("sampler@evaluation.sampler=dpm2", "evaluation.sampler.num_steps=7"),
        ("budget.iterations=null", "budget.samples=4096", "logging.entity='a b'"),
    ],
)
def test_cells_are_what_hydra_composes(overrides: tuple[str, ...]) -> None:
    (run,) = plan([overrides])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert run.config == OmegaConf.to_container(compose("train", list(overrides)), resolve=True)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objectve=epg", ["objectve", "did you mean 'objective'"]),
        ("objective=egp", ["egp", "did you mean 'epg'", "grpo"]),
        ("batch.promts=3", ["did you mean 'batch.prompts'"]),
        ("lr=3", ["did you mean 'optimizer.lr'"]),
        ("batch.prompts=ten", ["whole number", "batch.prompts=8"]),
        ("batch.prompts=1.5", ["whole number"]),
        ("optimizer.lr=fast", ["optimizer.lr", "a number"]),
        ("objective.ratio=1", ["true or false"]),
        ("optimizer.betas=0.9", ["a list"]),
        ("+objectve=epg", ["nothing reads", "did you mean 'objective'"]),
        ("+batch.promts=3", ["nothing reads", "did you mean 'batch.prompts'"]),
        ("~sampler", ["a run needs its sampler", "ode"]),
        ("objective", ["key=value"]),
        ("seed=[1", ["seed=[1"]),
        ("+sweep=dmeo", ["did you mean 'demo'"]),
        ("seed=1,2", ["seed=1,2", "--multirun"]),
    ],
)
def test_mistakes(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as told:
        plan([["seed=0", override]])
    message = str(told.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("batch.micro=48",), ["128", "batch.micro = 48", "choose batch.micro=32"]),
        (("batch.updates=3",), ["batch.updates = 3", "whole groups"]),
        (("resources.processes=3",), ["resources.processes = 3", "batch.prompts=9"]),
        (("batch.group_size=1", "batch.micro=8"), ["batch.group_size = 1", "2 or more"]),
        (("batch.prompts=0",), ["batch.prompts = 0", "1 or more"]),
        (("batch.prompts=null",), ["batch.prompts = null", "whole number"]),
        (("resources.gpus=2",), ["resources.gpus = 2", "resources.processes=2"]),
        (("budget.iterations=null",), ["budget is empty", "budget.gpu_hours"]),
        (("budget.samples=-1",), ["budget.samples = -1", "positive"]),
        (("evaluation.every_iterations=0",), ["evaluation.every_iterations = 0"]),
        (("objective=grpo", "advantage=centered"), ["grpo", "'standardized'", "advantage=zscore_group"]),
    ],
)
def test_refusals(overrides: tuple[str, ...], words: list[str]) -> None:
    (item,) = plan([overrides])
    assert isinstance(item, Refused)
    (reason,) = item.reasons
    assert "\n" not in reason
    assert all(word in reason for word in words), reason


def test_snapshot_and_fates(tmp_path: Path) -> None:
    cells = [(f"paths.runs={tmp_path}", "seed=4"), (f"paths.runs={tmp_path}", "objective=epg", "seed=4")]
    (run,) = plan(cells)
    assert isinstance(run, Run)
    directory = run.directory
    assert submit.fate(run) is Fate.START
    submit.snapshot(run)
    submit.snapshot(run)
    assert directory.overrides.read_text().splitlines() == [" ".join(cell) for cell in cells]
    assert directory.read_config() == {**run.config, "choices": dict(run.choices)}
    assert directory.commit.read_text().count("commit: ") == 1
    assert submit.fate(run) is Fate.START
    for state, fate in (("running", Fate.RESUME), ("failed", Fate.RESUME), ("done", Fate.DONE)):
        directory.update_state(state=state)
        assert submit.fate(run) is fate
    with directory.owned():
        assert submit.fate(run) is Fate.LIVE


def test_the_record_keeps_refusals_and_is_written_once(tmp_path: Path) -> None:
    line = [f"paths.runs={tmp_path}", "estimator=elbo,trajectory"]
    submit.record(line, plan_line(line))
    (path,) = (tmp_path / ".sweeps").iterdir()
    before = path.read_bytes()
    submit.record(line, plan_line(line))
    assert path.read_bytes() == before
    content = json.loads(before)
    assert content["asked"] == line
    runs, refused = content["cells"]
    assert runs["signature"] and not runs["refused"]
    assert refused["signature"] is None and "sampler=sde" in refused["refused"][0]


def test_seats() -> None:
    def resources(**changes: object) -> dict[str, object]:
        return {"processes": 1, "gpus": 0, "threads": 1, "slots": None} | changes

    machine = Machine(4, ["0", "1", "2"])
    wide = machine.take(resources(threads=3))
    assert wide is not None and machine.take(resources(processes=2)) is None
    assert machine.take(resources()) is not None and machine.take(resources()) is None
    pair = machine.take(resources(gpus=2, processes=2))
    assert pair is not None and pair.gpus == ("0", "1")
    assert machine.take(resources(gpus=2, processes=2)) is None
    assert machine.take(resources(slots=3)) is None and machine.take(resources(slots=4)) is not None
    machine.give_back(pair)
    again = machine.take(resources(gpus=3, processes=3))
    assert again is not None and sorted(again.gpus) == ["0", "1", "2"]
    with pytest.raises(UserError, match="resources.gpus = 4"):
        machine.check(resources(gpus=4))
    assert Machine(1, []).take(resources(threads=8)) is not None  # too wide for the machine: it runs alone


def test_values_of_a_sweep_file_as_overrides() -> None:
    values = {"true": True, "null": None, "1e-05": 1e-5, "[0.9,a]": [0.9, "a"], "{a:1}": {"a": 1}}
    assert {literal(value): value for value in values.values()} == values
    with composing() as composer:
        (cell,) = composer.product([f"optimizer.betas={literal([0.5, 0.25])}"])
        assert composer.cell(cell).config["optimizer"]["betas"] == [0.5, 0.25]


def test_planning_leaves_torch_alone() -> None:
    modules = [
        "runners.__main__",
        "runners.register",
        "ablate.__main__",
        "ablate.contract.compat",
        "ablate.contract.keys",
    ]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules}]\n"
    code += "from runners.plan import plan; plan([['seed=0']]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CONF.parent).returncode == 0
