"""What the checks look at: the first rollout, and of it one group, asked as the learner will ask it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ablate.averaging import average
from ablate.distributed import Distributed
from ablate.groups import batches, feedback_of, group_max
from ablate.key import Key
from ablate.parts import Parts
from ablate.protocols import Policy
from ablate.settings import BatchSizes
from ablate.types import Feedback, Query, Role, Rollout

_NUDGE = 1e-2  # of a weight's typical size: far above rounding, also in bf16; far below what breaks a network


@dataclass(frozen=True)
class Trial:
    """A run before its first update. Its checks leave every weight as they found it, to the bit.

    Attributes:
        promises: the tags that the run's parts provide.
        key: this iteration's randomness, as the learner will get it.
    """

    parts: Parts
    policy: Policy
    batch: BatchSizes
    distributed: Distributed
    promises: frozenset[str]
    rollout: Rollout
    feedback: Feedback
    key: Key

    @cached_property
    def rows(self) -> Tensor:
        """Samples of this process's group whose rewards differ most [G]."""
        group = self.feedback.group
        return (group == group[self._spread.argmax()]).nonzero().squeeze(1)

    @property
    def unequal(self) -> bool:
        """Whether they differ at all."""
        return bool(self._spread.max() > 0)

    @cached_property
    def _spread(self) -> Tensor:
        reward, group = self.feedback.reward, self.feedback.group
        return group_max(reward, group) + group_max(-reward, group)

    def queries(self) -> Iterator[tuple[Query, Tensor]]:
        """Every query of the group, in micro-batches, with its rows; drawn anew, the same at every call."""
        for index in batches(self.rows, self.batch.micro):
            draws = self.key.of("query").rows(self.rollout.sample[index])
            for query in average(self.parts.estimator.queries(self.rollout, index, draws), self.batch.draws):
                yield query, index

    def credit(self, query: Query, index: Tensor, sign: float = 1.0) -> Feedback:
        """The rows' feedback as the objective sees it, its advantages times ``sign``."""
        turned = replace(self.feedback, advantage=sign * self.feedback.advantage)
        return feedback_of(turned, self.rollout, index, query.k, self.parts.objective.scope)

    @contextmanager
    def kept(self) -> Iterator[Mapping[str, Tensor]]:
        """Whatever happens to weights in the block is undone after it; gives the state that comes back."""
        state = self.policy.state_dict()
        try:
            yield state
        finally:
            self.policy.load_state_dict(state)

    @torch.no_grad()
    def nudge(self, sign: float = 1.0) -> None:
        """Move every weight of theta a little, LoRA's zeros too; always by the same noise, times ``sign``."""
        parameters = self.policy.parameters()
        generator = self.key.of("nudge").generator()
        typical = _rms(torch.cat([_rms(p).view(1) for p in parameters]))
        for p in parameters:
            noise = torch.randn(p.shape, generator=generator).to(p)
            p.add_(sign * _NUDGE * torch.maximum(_rms(p), typical).to(p) * noise)


def _rms(values: Tensor) -> Tensor:
    return values.detach().float().square().mean().sqrt()


def roles_read(uses: frozenset[str], kind: str) -> set[Role]:
    """Roles declared as ``kind``:<role>, kind being "v" or "log_prob"."""
    return {use.partition(":")[2] for use in uses if use.startswith(kind + ":")}
