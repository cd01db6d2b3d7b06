"""Published methods that strain the protocols, as parts: whoever changes a protocol must keep these possible.

Each is one part, of the size it would have in the lab. They live here as no experiment uses them yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.groups import group_mean
from ablate.key import Draws
from ablate.samplers.gaussian import column, euler_step
from ablate.samplers.sde import FlowSDE
from ablate.types import Cond, Step, Transition, Velocity


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
