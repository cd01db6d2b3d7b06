"""A user's mistake is one line with value, rule and cure; what was recorded before stays."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from running import finish, in_child, outcome, prepare, same, wait

from ablate import build, checkpoint
from ablate.contract.errors import DivergedRun, IncompatibleRun, UserError
from ablate.contract.rundir import RunDir, append_row, read_rows
from ablate.learners.default import DefaultLearner
from ablate.rewards.mixture2d import Mixture2DReward
from ablate.train import run

SHORT = ("budget.iterations=6", "evaluation.every_iterations=3")


def _fails(directory: RunDir, before: Callable[[], None] = lambda: None) -> str:
    """Run in a child that must fail by itself; returns the reason it left in state.json."""

    def work() -> None:
        before()
        run(directory)

    assert wait(in_child(work)) == 1
    state = directory.read_state()
    assert state["state"] == "failed"
    return str(state["error"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("sampler=sde", "sampler.noise_level=-1"), ["noise_level = -1", "positive", "sampler=ode"]),
        (
            ("sampler=sde", "sampler.window={_target_:ablate.samplers.windows.Fixed,steps:[9]}"),
            ["[9]", "0..8", "last transition"],
        ),
        (("sampler=sde", "sampler.num_steps=1"), ["num_steps = 1"]),
        (("sampler.num_steps=0",), ["num_steps = 0"]),
        (("sampler.grid.shift=0",), ["shift = 0"]),
        (("objective=grpo", "objective.clip=1.5"), ["clip = 1.5", "(0, 1)", "1.0e-4"]),
        (("regularizer=girsanov", "regularizer.kl_coef=0"), ["kl_coef = 0", "regularizer=none"]),
        (("regularizer=k3", "regularizer.role=teacher"), ["teacher", "snapshots"]),
        (("advantage=centered", "advantage.scale=-0.1"), ["scale = -0.1", "minimise"]),
        (("advantage.clip=0",), ["clip = 0"]),
        (("estimator.times.fraction=0",), ["fraction = 0"]),
        (("estimator=elbo_stratified", "estimator.times.low=1.0"), ["low", "high"]),
        (("estimator.weighting.floor=0",), ["floor = 0"]),
        (("start.spread=2",), ["spread = 2", "[0, 1]"]),
        (("snapshots.rollout=teacher",), ["rollout = teacher"]),
        (("evaluation.role=teacher",), ["teacher", "snapshots"]),
        (("reward.radius=0",), ["radius = 0"]),
    ],
)
def test_a_part_refuses_its_settings(overrides: tuple[str, ...], words: list[str], tmp_path: Path) -> None:
    config = prepare(tmp_path, *overrides).read_config()
    with pytest.raises(ValueError) as caught:
        build.light(config)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_trajectory_over_a_deterministic_sampler(tmp_path: Path) -> None:
    """The build refuses what the planner's tags refuse already."""
    with pytest.raises(UserError, match="sampler=sde"):
        build.light(prepare(tmp_path, "estimator=trajectory", "sampler=dpm2").read_config())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_reward_that_is_not_finite(value: float, tmp_path: Path) -> None:
    directory = prepare(tmp_path, *SHORT)

    def poison() -> None:
        original, count = Mixture2DReward.__call__, [0]

        def call(self: Mixture2DReward, *args: object) -> dict[str, torch.Tensor]:
            count[0] += 1
            scores = original(self, *args)  # type: ignore[arg-type]
            if count[0] == 6:
                scores["near"][3] = value
            return scores

        Mixture2DReward.__call__ = call  # type: ignore[method-assign, assignment]

    error = _fails(directory, poison)
    assert "DivergedRun: reward 'near'" in error and "first for prompt 'mode" in error
    rows = read_rows(directory.metrics)
    assert 0 < len(rows) < 6
    finish(directory)  # the reward is mended: nothing was lost
    whole = prepare(tmp_path / "whole", *SHORT)
    finish(whole)
    assert same(outcome(directory), outcome(whole))


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    directory = prepare(tmp_path, *SHORT)

    def poison() -> None:
        original = DefaultLearner._loss
        DefaultLearner._loss = lambda *args: original(*args) * float("nan")  # type: ignore[method-assign]

    error = _fails(directory, poison)
    assert "gradient norm is nan at optimizer step 0" in error and "optimizer.lr" in error
    assert read_rows(directory.metrics) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_damaged_checkpoint(damage: str, tmp_path: Path) -> None:
    directory = prepare(tmp_path, *SHORT)
    finish(directory)
    whole = directory.checkpoint.read_bytes()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    damaged = {
        "cut": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "empty": b"",
        "other": b"not ours" * 99,
    }
    directory.checkpoint.write_bytes(damaged[damage])
    rows = read_rows(directory.metrics)
    assert "latest.ckpt is damaged or half-written" in _fails(directory)
    assert read_rows(directory.metrics) == rows


def test_checkpoint_of_another_run(tmp_path: Path) -> None:
    directory, other = prepare(tmp_path, *SHORT), prepare(tmp_path, *SHORT, "policy.tuning=lora")
    finish(directory)
    finish(other)
    other.checkpoint.write_bytes(directory.checkpoint.read_bytes())
    assert "weights are not this run's" in _fails(other)


def test_gpus_that_are_not_there(tmp_path: Path) -> None:
    """No silent fall back to the CPU: hours on another device are another axis."""
    missing = torch.cuda.device_count() + 1
    directory = prepare(tmp_path, *SHORT, f"resources.gpus={missing}")
    with pytest.raises(IncompatibleRun, match=rf"resources.gpus = {missing}, .* resources=cpu"):
        run(directory)


def test_run_directory_of_a_live_process(tmp_path: Path) -> None:
    directory = prepare(tmp_path, *SHORT)
    with directory.owned():
        assert directory.is_live()
        with pytest.raises(UserError, match=r"belongs to a live process .*pid .*runners cancel"):
            run(directory)
    assert not directory.is_live()


def test_disk_full_while_writing(tmp_path: Path) -> None:
    """The kernel lets no file grow: rows and checkpoint from before stay, and the run goes on later."""
    directory, whole = prepare(tmp_path / "full", *SHORT), prepare(tmp_path / "whole", *SHORT)
    finish(whole)

    def fill_up() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        original = DefaultLearner.update

        def update(self: DefaultLearner, *args: object) -> dict[str, float]:
            if self._step == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
            return original(self, *args)  # type: ignore[arg-type]

        DefaultLearner.update = update  # type: ignore[method-assign, assignment]

    error = _fails(directory, fill_up)
    assert "could not write" in error and "free some space" in error
    rows = read_rows(directory.metrics)
    assert 0 < len(rows) < 6
    assert checkpoint.load(directory.checkpoint)["progress"]["iteration"] == 2
    finish(directory)
    assert same(outcome(directory), outcome(whole))


def test_row_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"iteration": 1})
    with pytest.raises(ValueError):
        append_row(path, {"iteration": 2, "reward": float("nan")})
    assert read_rows(path) == [{"iteration": 1}]


def test_torn_last_row_is_no_row_and_damage_before_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iterat')
    assert read_rows(path) == [{"iteration": 1}]
    path.write_text('{"iterat\n{"iteration": 2}\n')
    with pytest.raises(UserError, match="line 1 is damaged"):
        read_rows(path)


@pytest.mark.parametrize("error", [IncompatibleRun, DivergedRun])
def test_user_errors_are_value_errors(error: type[UserError]) -> None:
    assert issubclass(error, UserError) and issubclass(error, ValueError)
