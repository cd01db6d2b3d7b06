"""The gradient that the real learner takes, read off its step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ablate.distributed import Distributed
from ablate.key import Key
from ablate.learners.default import DefaultLearner
from ablate.parts import Parts
from ablate.policies.mixture2d import Mixture2D
from ablate.policies.policy import RolePolicy
from ablate.policies.roles import Full
from ablate.settings import BatchSizes, OptimizerSettings
from ablate.types import Feedback, Rollout

# AdamW that steps by g / (1 + |g| / 1e6): the gradient itself
PLAIN = OptimizerSettings(lr=1e6, weight_decay=0.0, betas=(0.0, 0.0), eps=1e6, grad_clip=1e9)


def learn(
    parts: Parts, *, micro: int, draws: int = 1, updates: int = 1, lr: float = PLAIN.lr
) -> tuple[DefaultLearner, RolePolicy]:
    """The default learner of these parts, and the mixture2d policy it trains."""
    policy = RolePolicy(
        Mixture2D(),
        tuning="full",
        tunings={"full": Full()},
        guidance={},
        snapshots=list(parts.snapshots.roles),
        device=torch.device("cpu"),
    )
    batch = BatchSizes(prompts=1, group_size=1, micro=micro, updates=updates, rollout=1, draws=draws)
    optimizer = replace(PLAIN, lr=lr)
    learner = DefaultLearner(
        parts=parts, policy=policy, distributed=Distributed(0), batch=batch, optimizer=optimizer
    )
    return learner, policy


@dataclass(frozen=True)
class Lesson:
    """One update of the default learner on mixture2d, by these parts.

    Attributes:
        off_policy: theta has left old, after a first step.
    """

    parts: Parts
    off_policy: bool = False

    def gradient(self, rollout: Rollout, feedback: Feedback, *, micro: int, draws: int = 1) -> Tensor:
        """d loss / d theta of an iteration's single update, in one row."""
        learner, policy = learn(self.parts, micro=micro, draws=draws)
        if self.off_policy:
            generator = torch.Generator().manual_seed(3)
            state = learner.state_dict()
            for name, value in state["policy"].items():
                if name.startswith("theta/"):
                    value.add_(0.02 * torch.randn(value.shape, generator=generator))
            learner.load_state_dict(state | {"step": 1})
        before = _theta(policy)
        learner.update(rollout, feedback, Key((0, 0, "update")))
        return before - _theta(policy)


def _theta(policy: RolePolicy) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in policy.parameters()])
