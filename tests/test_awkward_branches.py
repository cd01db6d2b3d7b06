"""Credit per step: paths of many steps, branches of one, and one kick per sample are one to a learner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from awkward import Branch, BranchCredit
from learning import Lesson
from pieces import draws, sample
from torch import Tensor

from ablate.estimators.trajectory import Trajectory
from ablate.objectives.epg import EPG
from ablate.objectives.grpo import GRPO
from ablate.samplers.grids import Double
from ablate.samplers.sde import FlowSDE
from ablate.starts.noise import Noise
from ablate.types import Feedback, Path, Rollout

Make = Callable[..., Any]
SDE = FlowSDE(10, Double(3.0), 0.7)
KICKS = (0, 2, 5, 7)


def branches(rollout: Rollout, advantage: Tensor) -> tuple[Rollout, Feedback]:
    """Every stored step as a sample of its own: N S one-step paths."""
    path = rollout.path
    assert path is not None and path.log_prob is not None
    steps = path.k.shape[1]
    once = {name: getattr(path, name).flatten(0, 1)[:, None] for name in ("x", "x_next", "k", "log_prob")}
    each = torch.arange(len(rollout.x0)).repeat_interleave(steps)
    apart = replace(
        rollout,
        x0=rollout.x0[each],
        group=rollout.group[each],
        sample=torch.arange(len(each)),
        cond={name: value[each] for name, value in rollout.cond.items()},
        path=Path(**once),
    )
    return apart, Feedback(torch.zeros(len(each)), advantage.gather(1, path.k).flatten(), apart.group)


@pytest.mark.parametrize("objective", [EPG(), GRPO(1e-3)])
@pytest.mark.parametrize("off_policy", [False, True])
def test_a_path_is_its_branches(parts: Make, policy: Any, objective: Any, off_policy: bool) -> None:
    """N paths of S steps, with credit per step, have the gradient of N S branches of one step each."""
    rollout = sample(policy, SDE, Noise(0.3), keep="transitions", groups=3, size=4)
    by_step = draws(12, "by step").normal(10)
    taught = replace(parts(), objective=objective, estimator=Trajectory(SDE))
    lesson = Lesson(taught, off_policy=off_policy)
    whole = lesson.gradient(rollout, Feedback(torch.zeros(12), by_step, rollout.group), micro=6)
    apart, credited = branches(rollout, by_step)
    found = lesson.gradient(apart, credited, micro=27)
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()) + 1e-6)


def kicked(policy: Any, size: int = 8) -> tuple[Branch, Rollout]:
    branch = Branch(SDE, KICKS)
    return branch, sample(policy, branch, Noise(0.0), keep="transitions", groups=2, size=size)


def test_one_kick_per_sample(policy: Any) -> None:
    """Up to its own kick a sample is its group's ODE path; then it goes its own way, by the ODE again."""
    _, rollout = kicked(policy)
    assert rollout.path is not None
    own = torch.tensor(KICKS)[torch.arange(16) % 4]
    for k, x in zip(KICKS, rollout.path.x.unbind(1), strict=True):
        for group in (0, 1):
            rows = x[(rollout.group == group) & (own >= k)]
            torch.testing.assert_close(rows, rows[:1].expand_as(rows), rtol=0, atol=1e-5)
    assert len(rollout.x0.round(decimals=4).unique(dim=0)) == 16
    velocity, cond = policy.velocity("old"), {"label": rollout.cond["label"]}
    x, t = rollout.path.x_next[:, -1], SDE.times().float()
    with torch.no_grad():
        for k in (8, 9):
            x = x + (t[k + 1] - t[k]) * velocity(x, t[k].expand(16), cond)
    torch.testing.assert_close(x, rollout.x0, rtol=0, atol=1e-5)


def test_credit_goes_to_the_kick(parts: Make, policy: Any) -> None:
    """[N,K] credit that is 0 but at a sample's kick has the gradient of those kicks alone, over S steps."""
    branch, rollout = kicked(policy)
    rewards = draws(16, "reward").normal()
    by_step = BranchCredit(10, KICKS)(rewards, rollout.group)
    own = torch.arange(16) % 4
    assert by_step.shape == (16, 10) and (by_step != 0).sum(1).tolist() == [1] * 16
    for group in (0, 1):
        for turn in range(4):
            alike = (rollout.group == group) & (own == turn)
            assert float(by_step[alike].sum()) == pytest.approx(0, abs=1e-6)
    assert rollout.path is not None and rollout.path.log_prob is not None
    rows = torch.arange(16)
    stored = {name: getattr(rollout.path, name) for name in ("x", "x_next", "k", "log_prob")}
    kept = {name: value[rows, own][:, None] for name, value in stored.items()}
    alone = replace(rollout, path=Path(**kept))
    lesson = Lesson(replace(parts(), objective=EPG(), estimator=Trajectory(branch)))
    feedback = Feedback(rewards, by_step, rollout.group)
    whole, found = (lesson.gradient(r, feedback, micro=16) for r in (rollout, alone))
    torch.testing.assert_close(found, len(KICKS) * whole, rtol=1e-3, atol=1e-5 * float(found.abs().max()))
