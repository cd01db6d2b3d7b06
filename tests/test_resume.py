"""kill -9 at any moment, then the same command: the bits of the unbroken run."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import peft  # noqa: F401  # imported once here, so that no forked child pays its seconds
import pytest
from running import finish, in_child, outcome, prepare, same, wait

import ablate.policies.shapes  # noqa: F401  # likewise
from ablate import checkpoint, evaluate, loop
from ablate.contract.rundir import RunDir
from ablate.learners.default import DefaultLearner
from ablate.train import run

ARMS = {
    "epg-elbo-ode": (
        *("objective=epg", "estimator=elbo", "sampler=ode"),
        *("regularizer=girsanov", "snapshots=nft_slow"),
    ),
    "grpo-trajectory-sde": (
        *("objective=grpo", "estimator=trajectory", "sampler=sde"),
        *("batch.updates=2", "batch.micro=64"),
    ),
    "lora": ("policy.tuning=lora", "objective=pepg", "sampler=dpm2"),
    "shapes": (
        *("policy=shapes", "estimator=elbo_stratified", "prompts.test_per_task=1"),
        *("batch.prompts=2", "batch.group_size=4", "batch.micro=4", "batch.rollout=4"),
    ),
}
LENGTH = ("budget.iterations=10", "evaluation.every_iterations=3")


@pytest.fixture(scope="module", params=ARMS, ids=list(ARMS))
def unbroken(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, ...], RunDir]:
    overrides = (*ARMS[request.param], *LENGTH)
    directory = prepare(tmp_path_factory.mktemp("unbroken"), *overrides)
    finish(directory)
    return overrides, directory


def test_two_and_two_is_four(tmp_path: Path, unbroken: tuple[tuple[str, ...], RunDir]) -> None:
    """Asked to stop, a run checkpoints; the same command ends with the same bits, and hours only grow."""
    overrides, whole = unbroken
    directory = prepare(tmp_path, *overrides)

    def stopped_run() -> None:
        update, count = DefaultLearner.update, [0]

        def counting(self: DefaultLearner, *args: object) -> dict[str, float]:
            count[0] += 1
            if count[0] == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return update(self, *args)  # type: ignore[arg-type]

        DefaultLearner.update = counting  # type: ignore[method-assign, assignment]
        run(directory)

    assert wait(in_child(stopped_run)) == 0
    assert directory.read_state()["state"] == "stopped"
    hours = checkpoint.load(directory.checkpoint)["progress"]["gpu_hours"]
    finish(directory)
    assert same(outcome(directory), outcome(whole))
    assert checkpoint.load(directory.checkpoint)["progress"]["gpu_hours"] > hours > 0


def _die(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_half_way(path: Path, state: object) -> None:
    """What a kill in the middle of a checkpoint leaves: a partial file beside the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f".{path.name}.partial").write_bytes(b"ABLATE01 half a checkpoint")
    _die()


MOMENTS = {
    "rollout": (loop, "collect", _die, 7),
    "reward": (loop, "judge", _die, 5),
    "update": (DefaultLearner, "_apply", _die, 8),
    "evaluation": (evaluate, "score", _die, 3),
    "picture": (evaluate, "save_grid", _die, 2),
    "checkpoint": (checkpoint, "save", _die_half_way, 3),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in(moment: str, tmp_path: Path, unbroken: tuple[tuple[str, ...], RunDir]) -> None:
    overrides, whole = unbroken
    owner, name, death, turn = MOMENTS[moment]
    directory = prepare(tmp_path, *overrides)

    def doomed() -> None:
        original, count = getattr(owner, name), [0]

        def call(*args: object, **kwargs: object) -> object:
            count[0] += 1
            return (death if count[0] == turn else original)(*args, **kwargs)

        setattr(owner, name, call)
        run(directory)

    assert wait(in_child(doomed)) == -signal.SIGKILL
    assert directory.read_state()["state"] == "running" and not directory.is_live()  # dead, and seen to be
    finish(directory)
    assert same(outcome(directory), outcome(whole))


@pytest.mark.parametrize("number", range(8))
def test_killed_at_a_random_moment(
    number: int, tmp_path: Path, unbroken: tuple[tuple[str, ...], RunDir]
) -> None:
    overrides, whole = unbroken
    directory = prepare(tmp_path, *overrides)
    began = time.monotonic()
    pid = in_child(lambda: run(directory))
    time.sleep(random.Random(number).uniform(0.05, 1.2))
    os.kill(pid, signal.SIGKILL)
    status = wait(pid)
    assert status in (-signal.SIGKILL, 0), f"the run failed by itself after {time.monotonic() - began:.2f} s"
    finish(directory)
    assert same(outcome(directory), outcome(whole))


def test_a_finished_run_runs_nothing_more(unbroken: tuple[tuple[str, ...], RunDir]) -> None:
    _, directory = unbroken
    before = outcome(directory)
    finish(directory)
    assert same(outcome(directory), before)
