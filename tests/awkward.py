"""Published methods that strain the protocols, as parts: whoever changes a protocol must keep these possible.

Each is one part, of the size it would have in the lab. They live here as no experiment uses them yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ablate.estimators.weights import Uniform, mean_square
from ablate.groups import group_mean
from ablate.key import Draws
from ablate.protocols import Sampler
from ablate.samplers.gaussian import column, euler_step
from ablate.samplers.sde import FlowSDE
from ablate.types import (
    Cond,
    Evaluation,
    Feedback,
    Keep,
    Loss,
    Query,
    Rollout,
    Scope,
    Siblings,
    Step,
    Transition,
    Velocity,
)


@dataclass(frozen=True)
class FiniteDifference:
    """``-mean (v - (v_k - n))^2`` at the stored states, ``n = dx / mean dx^2`` (FDFO, arXiv:2603.12893).

    dx leads from the mean endpoint of the group, a pair from nearly one start. Old costs no forward.
    """

    sampler: Sampler
    keep: ClassVar[Keep] = "states"

    def queries(self, rollout: Rollout, index: Tensor, draws: Draws) -> Sequence[Query]:
        del draws
        path = rollout.path
        assert path is not None and path.v is not None
        kin = (rollout.group[index, None] == rollout.group).to(rollout.x0)
        mean = (kin @ rollout.x0.flatten(1) / kin.sum(1, keepdim=True)).view_as(rollout.x0[index])
        dx = rollout.x0[index] - mean
        n = dx / (column(dx.square().flatten(1).mean(1), dx) + 1e-6)
        cond = {name: value[index] for name, value in rollout.cond.items()}
        times, found = self.sampler.times().to(torch.float32), []
        for s in range(path.k.shape[1]):
            k, target = path.k[index, s], path.v[index, s] - n
            score = partial(Uniform(), target=target, t=times[k])
            known = {rollout.drawn_by: -n.square().flatten(1).mean(1)}
            found.append(Query(path.x[index, s], times[k], k, cond, target, score, known))
        return found


@dataclass(frozen=True)
class GroupDirection:
    """``mean (v - (v_old - gain C / t))^2``, ``C = sum_j w_j (A_j - A_mean) x0_j`` over the siblings.

    ``w_j ~ exp(-|x_t - (1 - t) x0_j|^2 / (2 h^2))`` with ``h = bandwidth t``: 1 is the kernel estimate of the
    value gradient (arXiv:2608.14430), infinity the group's covariance (DiffusionART).
    """

    gain: float
    bandwidth: float = math.inf
    scope: ClassVar[Scope] = "siblings"

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"v:old"})

    def direction(self, query: Query, siblings: Siblings) -> tuple[Tensor, Tensor]:
        """C [B,*D] and the weights [B,G]."""
        near = (1 - column(query.t, siblings.x0)) * siblings.x0
        square = (query.x_t[:, None] - near).square().flatten(2).sum(2)
        w = (-square / (2 * (self.bandwidth * query.t[:, None]).square())).softmax(1)
        credit = siblings.advantage - (w * siblings.advantage).sum(1, keepdim=True)
        return ((w * credit).view(*w.shape, *[1] * (query.x_t.dim() - 1)) * siblings.x0).sum(1), w

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss:
        assert fb.siblings is not None
        c, w = self.direction(ev.query, fb.siblings)
        target = ev.v_of["old"] - self.gain * c / column(ev.query.t, c)
        return Loss(mean_square(ev.v, target), {"effective_siblings": 1 / w.square().sum(1).mean()})


@dataclass(frozen=True)
class Branch:
    """Euler steps but one: sample number i is kicked at step ``kicks[i % len(kicks)]`` (arXiv:2508.04324).

    With a start shared by the group and rewards compared by (group, step), an endpoint judges one kick. A
    step is stored for all samples or for none, so ``BranchCredit`` gives 0 to those not kicked there.
    """

    kernel: FlowSDE
    kicks: Sequence[int]

    @property
    def num_steps(self) -> int:
        return self.kernel.num_steps

    def times(self) -> Tensor:
        return self.kernel.times()

    def transition(self, x: Tensor, k: Tensor) -> Transition:
        return self.kernel.transition(x, k)

    def step(
        self, velocity: Velocity, x: Tensor, k: int, cond: Cond, carry: Tensor | None, draws: Draws
    ) -> Step:
        turn = torch.tensor(self.kicks)[draws.numbers % len(self.kicks)] if carry is None else carry
        plain = euler_step(self.times(), velocity, x, k, cond)
        if k not in self.kicks:
            return Step(plain.x, plain.v, None, turn)
        step = self.transition(x, torch.full((len(x),), k))
        kicked = step.sample(plain.v, draws.normal(*x.shape[1:]))
        x_next = torch.where(column(turn == k, x).bool(), kicked, plain.x)
        return Step(x_next, plain.v, step.log_prob(x_next, plain.v), turn)


@dataclass(frozen=True)
class BranchCredit:
    """Centred over the samples of a group that were kicked at the same step: [M,K], 0 at all other steps."""

    num_steps: int
    kicks: Sequence[int]

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        step = torch.tensor(self.kicks)[torch.arange(len(group)) % len(self.kicks)]
        credit = rewards - group_mean(rewards, group * self.num_steps + step)
        return torch.zeros(len(group), self.num_steps).scatter(1, step[:, None], credit[:, None])
