"""Check of the roles that follow theta: rehearsed on a theta moved a little, at the steps that matter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.preflight.finding import Finding
from ablate.preflight.trial import Trial
from ablate.snapshots.snapshots import Follower, Snapshots, Turn
from ablate.types import Role

_ROWS = 8
_HORIZON = 1000  # optimizer steps over which a schedule is searched
_TOLERANCE = 0.25  # a lag in weights is one in velocity to first order; mistakes are off by 1/2 and more
_TURNS: tuple[Turn, Turn] = ("step", "iteration")


@dataclass(frozen=True)
class _Lag:
    """How far a role stays behind: 0 is with theta, 1 where it was before theta moved."""

    role: Role
    when: str
    found: float
    wanted: float

    @property
    def gap(self) -> float:
        gap = abs(self.found - self.wanted)
        return math.inf if math.isnan(gap) else gap


def snapshots_lag(trial: Trial) -> Finding:
    """Every role lags theta as its schedule says: not at all where it copies, wholly where it is frozen.

    Measured in the role's velocity, as a share of theta's move. A role that shares theta's weights has lag 0
    whatever its schedule says; ref must have 1.
    """
    with trial.kept() as state, torch.no_grad():
        lags = [*_apart(trial), *_followed(trial, state)]
    worst = max(lags, key=lambda lag: lag.gap)
    what = f"the lag of '{worst.role}' {worst.when}, as a share of theta's move,"
    rule = f"{worst.wanted:.3g} +- {_TOLERANCE}"
    cure = "look for weights that two roles share, a copy that is none, or a decay turned round"
    return Finding("snapshot_lag", what, worst.found, rule, worst.gap <= _TOLERANCE, cure)


def _apart(trial: Trial) -> Iterator[_Lag]:
    """Nobody moves because theta does: neither as built, nor after a copy. Leaves all roles moved."""
    policy, roles = trial.policy, trial.parts.snapshots.roles
    for when in ("as theta moves", "as theta moves after a copy"):
        before = _ask(trial, ("theta", "ref", *roles))
        trial.nudge()
        after = _ask(trial, ("theta", "ref", *roles))
        unit = (after["theta"] - before["theta"]).norm()
        for role in (*roles, "ref"):
            yield _Lag(role, when, 1 - float((after[role] - before[role]).norm() / unit), 1.0)
        for role in roles:
            policy.blend(role, "theta", 0.0)


def _followed(trial: Trial, state: Mapping[str, Tensor]) -> Iterator[_Lag]:
    """What ``follow`` does at the optimizer steps that matter, against the same sums done on lags."""
    policy, snapshots = trial.policy, trial.parts.snapshots
    policy.load_state_dict(state)
    start = _ask(trial, snapshots.roles)
    trial.nudge()
    for role in snapshots.roles:
        policy.blend(role, "theta", 0.0)
    copied = _ask(trial, snapshots.roles)
    for step in sorted({step for follower in snapshots.roles.values() for step in _steps(follower)}):
        policy.load_state_dict(state)
        trial.nudge()
        for turn in _TURNS:
            snapshots.follow(policy, step, turn)
        now = _ask(trial, snapshots.roles)
        for role, wanted in _expected(snapshots, step).items():
            way = start[role] - copied[role]
            found = float(((now[role] - copied[role]) * way).sum() / way.square().sum())
            yield _Lag(role, f"after optimizer step {step}", found, wanted)


def _steps(follower: Follower) -> Iterator[int]:
    """The first step, and the first that lags most, that copies, and that changes source."""
    steps = range(1, _HORIZON + 1)
    yield from (1, max(steps, key=follower.decay))  # max takes the first of several
    yield from [step for step in steps if follower.decay(step) == 0][:1]
    yield from [step for step in steps if follower.source_at(step) != follower.source_at(1)][:1]


def _expected(snapshots: Snapshots, step: int) -> dict[Role, float]:
    """The lags after one step by which theta alone has moved."""
    lag = dict.fromkeys(snapshots.roles, 1.0) | {"theta": 0.0}
    for turn in _TURNS:
        for role, follower in snapshots.roles.items():
            if follower.per == turn:
                decay = follower.decay(step)
                lag[role] = decay * lag[role] + (1 - decay) * lag[follower.source_at(step)]
    return {role: lag[role] for role in snapshots.roles}


def _ask(trial: Trial, roles: Iterable[Role]) -> dict[Role, Tensor]:
    """The roles' velocities at a few samples, half-way, fp64."""
    rows, rollout = trial.rows[:_ROWS], trial.rollout
    cond = {name: value[rows] for name, value in rollout.cond.items()}
    x = rollout.x0[rows]
    t = torch.full((len(x),), 0.5, device=x.device)
    return {role: trial.policy.velocity(role)(x, t, cond).double() for role in roles}
