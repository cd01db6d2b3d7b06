"""Each silent bug, planted the way it happens, is caught by name; a sound run passes, to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from awkward import Branch, BranchCredit
from flying import SIZES, SMALL_SHAPES, Patch, failed, fly, looked_at, nothing, processes, scores
from running import TINY, config
from torch import Tensor

import ablate.advantages.zscore as zscore
from ablate import train
from ablate.contract.errors import DivergedRun
from ablate.contract.rundir import RunDir
from ablate.estimators.trajectory import Trajectory
from ablate.loop import Lab
from ablate.loop import train as run_loop
from ablate.objectives.nft import NFT
from ablate.objectives.optimality import optimality
from ablate.policies.policy import RolePolicy
from ablate.policies.roles import FullCopies
from ablate.policies.shapes import Shapes
from ablate.regularizers.girsanov import Girsanov
from ablate.regularizers.sum import Sum
from ablate.types import Evaluation, Feedback, Loss

ALL = {"reward_spread", "advantage_centred", "guidance", "on_policy", "snapshot_lag", "contrast"} | {
    "objective_gradient",
    "regularizer_gradient",
}


@pytest.mark.parametrize(
    ("overrides", "absent"),
    [
        ((), set()),
        (("objective=grpo", "estimator=trajectory", "sampler=sde", "snapshots=on_policy"), set()),
        (("objective=nft", "regularizer=sum", "snapshots=nft_ocr", "batch.updates=2"), {"guidance"}),
        (("objective=crd", "estimator=elbo_group", "snapshots=crd", "regularizer=reward_adaptive"), set()),
        (("objective=dgpo", "estimator=elbo_group", "snapshots=dgpo", "policy.tuning=lora"), set()),
        (("objective=awm", "snapshots=awm", "regularizer=awm", "policy.tuning=lora"), set()),
        (("objective=rwr", "advantage=positive_only", "regularizer=none", "snapshots=frozen_old"), None),
        (("objective=sft", "advantage=one_only", "regularizer=k1", "batch.micro=2"), None),
        (("objective=crd", "estimator=elbo_group", "+policy.guidance.ref=3.0"), set()),  # a guided anchor
        (("objective=dgpo", "estimator=elbo_group", "+policy.guidance.ref=3.0"), set()),  # and reference
        (("objective=ram", "snapshots=crd", "+policy.guidance.behaviour=3.0"), {"guidance", "on_policy"}),
    ],
    ids=lambda value: "-".join(word.split("=")[-1] for word in value) if isinstance(value, tuple) else "",
)
def test_a_sound_run_passes(overrides: tuple[str, ...], absent: set[str] | None, tmp_path: Path) -> None:
    record = fly(tmp_path, *overrides)
    assert failed(record) == []
    if absent is not None:
        assert looked_at(record) == ALL - absent


def test_credit_by_step_passes(tmp_path: Path) -> None:
    """[N,K] advantages, each centred over those who were kicked at the step."""

    def change(lab: Lab) -> Lab:
        branch = Branch(lab.parts.sampler, (1, 4))  # type: ignore[arg-type]
        credit = BranchCredit(branch.num_steps, (1, 4))
        parts = replace(lab.parts, sampler=branch, estimator=Trajectory(branch), advantage=credit)
        return replace(lab, parts=parts)

    record = fly(tmp_path, "estimator=trajectory", "sampler=sde", "start=shared", change=change)
    assert failed(record) == []
    assert looked_at(record) == ALL


def test_kernel_of_the_update_is_not_that_of_the_rollout(tmp_path: Path) -> None:
    """Two formulas for one density: the update scores with another noise level."""

    def change(lab: Lab) -> Lab:
        other = Trajectory(replace(lab.parts.sampler, noise_level=0.75))  # type: ignore[type-var]
        learner = train.build.learner(
            config(*TINY, *SIZES), replace(lab.parts, estimator=other), lab.policy, processes()
        )
        return replace(lab, parts=replace(lab.parts, estimator=other), learner=learner)

    record = fly(tmp_path, "objective=nft", "estimator=trajectory", "sampler=sde", change=change)
    assert failed(record) == ["on_policy"]


@pytest.mark.parametrize("objective", ["nft", "epg", "rwr"])
def test_who_drew_is_not_theta(objective: str, tmp_path: Path) -> None:
    """Other weights draw than are trained; NFT reads only velocities of old, RWR nothing."""

    def change(lab: Lab) -> Lab:
        state = lab.policy.state_dict()
        for name, value in state.items():
            if name.startswith("old/"):
                value.mul_(1.1)
        lab.policy.load_state_dict(state)
        return lab

    assert "on_policy" in failed(fly(tmp_path, f"objective={objective}", change=change))


@pytest.mark.parametrize("term", [False, True])
def test_regularizer_without_gradient(term: bool, tmp_path: Path) -> None:
    """Also as one term of a sum whose other terms have one."""

    class Dead(Girsanov):
        @torch.no_grad()
        def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor:
            return super().__call__(ev, fb)

    dead = Sum({"live": Girsanov(0.1, "ema"), "dead": Dead(0.1)}) if term else Dead(0.1)
    record = fly(tmp_path, change=lambda lab: replace(lab, parts=replace(lab.parts, regularizer=dead)))
    assert failed(record) == ["regularizer_gradient"]
    assert ("'dead'" in record["checks"][-1]["what"]) == term


def _aliased(patch: Patch) -> None:
    original = FullCopies.__init__

    def init(self: FullCopies, network: Any, snapshots: Any) -> None:
        original(self, network, snapshots)
        self._networks["old"] = self._networks["theta"]

    patch.setattr(FullCopies, "__init__", init)


def _copied_by_reference(patch: Patch) -> None:
    original = RolePolicy.blend

    def blend(self: RolePolicy, role: str, source: str, decay: float) -> None:
        original(self, role, source, decay)
        if decay == 0:
            for name, tensor in self._weights.tensors(role).items():
                tensor.data = self._weights.tensors(source)[name].data

    patch.setattr(RolePolicy, "blend", blend)


def _turned_round(patch: Patch) -> None:
    original = RolePolicy.blend
    patch.setattr(RolePolicy, "blend", lambda self, role, source, d: original(self, role, source, 1 - d))


def _never(patch: Patch) -> None:
    patch.setattr(RolePolicy, "blend", lambda *args: None)


def _always(patch: Patch) -> None:
    original = RolePolicy.blend
    patch.setattr(RolePolicy, "blend", lambda self, role, source, d: original(self, role, source, 0.0))


def _moving_base(patch: Patch) -> None:
    original = FullCopies.__init__

    def init(self: FullCopies, network: Any, snapshots: Any) -> None:
        original(self, network, snapshots)
        self._networks["ref"] = self._networks["theta"]

    patch.setattr(FullCopies, "__init__", init)


@pytest.mark.parametrize("snapshots", ["nft_fast", "on_policy", "frozen_old"])
@pytest.mark.parametrize(
    "bug", [_aliased, _copied_by_reference, _turned_round, _never, _always, _moving_base]
)
def test_snapshot_that_does_not_follow_its_schedule(
    bug: Callable[[Patch], None], snapshots: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    bug(monkeypatch)
    assert "snapshot_lag" in failed(fly(tmp_path, f"snapshots={snapshots}", "preflight=warn"))


class Twin(NFT):
    """Both branches are the good one."""

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        better = ev.query.log_prob(ev.v_of["old"] + self.mix * (ev.v - ev.v_of["old"]))
        q = optimality(fb.advantage, self.bound)
        return Loss(-(q * better + (1 - q) * better))


class Detached(NFT):
    """Theta's velocity is detached."""

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        return super().__call__(replace(ev, v=ev.v.detach()), fb)


@pytest.mark.parametrize(
    ("objective", "names"),
    [(Twin(0.5), ["contrast"]), (Detached(0.5), ["objective_gradient", "contrast"])],
)
def test_objective_without_a_signal(objective: NFT, names: list[str], tmp_path: Path) -> None:
    def change(lab: Lab) -> Lab:
        return replace(lab, parts=replace(lab.parts, objective=objective))

    assert failed(fly(tmp_path, "objective=nft", change=change)) == names


def test_advantage_centred_on_the_batch(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(zscore, "group_mean", lambda values, group: values.mean().expand_as(values))
    assert failed(fly(tmp_path, "advantage=zscore_group")) == ["advantage_centred"]


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_reward(value: float, tmp_path: Path, monkeypatch: Patch) -> None:
    scores(monkeypatch, value)
    assert failed(fly(tmp_path)) == ["reward_spread"]


def test_a_few_equal_rewards_may_be_chance(tmp_path: Path, monkeypatch: Patch) -> None:
    scores(monkeypatch, 0.0)
    assert failed(fly(tmp_path, "batch.prompts=2")) == []


def test_reward_that_is_not_finite(tmp_path: Path, monkeypatch: Patch) -> None:
    """Before the preflight, and whatever it is told: no advantage follows from it."""
    scores(monkeypatch, float("nan"))
    lab = train.assemble(RunDir(tmp_path), config(*TINY, *SIZES, "preflight=warn"), processes())
    with pytest.raises(DivergedRun, match="reward 'near' is nan"):
        run_loop(replace(lab, evaluator=nothing), None, lambda: False)  # type: ignore[arg-type]


def test_images(tmp_path: Path, monkeypatch: Patch) -> None:
    """Images of the shapes policy lie in [0, 1]; pixels in [-1, 1] are told."""
    sound = fly(tmp_path / "sound", *SMALL_SHAPES)
    assert failed(sound) == [] and "image_range" in looked_at(sound)
    monkeypatch.setattr(Shapes, "decode", lambda self, x0: x0)
    assert failed(fly(tmp_path / "raw", *SMALL_SHAPES))[0] == "image_range"


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (("objective=epg", "+policy.guidance.old=3.0"), ["guidance", "on_policy"]),
        (("objective=nft", "+policy.guidance.old=3.0"), ["on_policy"]),  # reads no likelihood of old
        (("objective=rwr", "estimator=trajectory", "sampler=sde", "+policy.guidance.old=3.0"), None),
        (("regularizer=k3", "+policy.guidance={theta:3.0,old:3.0}"), ["guidance"]),  # to a base without
    ],
)
def test_guidance_of_two_fields(overrides: tuple[str, ...], names: list[str] | None, tmp_path: Path) -> None:
    assert failed(fly(tmp_path, *overrides)) == (names or ["guidance", "on_policy"])
