"""The gradient that the real learner takes, read off its step."""

from __future__ import annotations

from dataclasses import dataclass

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
        policy = RolePolicy(
            Mixture2D(),
            tuning="full",
            tunings={"full": Full()},
            guidance={},
            snapshots=list(self.parts.snapshots.roles),
            device=torch.device("cpu"),
        )
        batch = BatchSizes(prompts=1, group_size=1, micro=micro, updates=1, rollout=1, draws=draws)
        learner = DefaultLearner(
            parts=self.parts, policy=policy, distributed=Distributed(0), batch=batch, optimizer=PLAIN
        )
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
