"""Protocols of the lab: what each part, the policy and the learner must offer.

Data, conventions and the letters of the shapes are in ``ablate.types``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from ablate.key import Draws, Key
from ablate.types import (
    Cond,
    Evaluation,
    Feedback,
    Keep,
    Loss,
    PhaseName,
    Prompt,
    Query,
    Role,
    Rollout,
    Scope,
    Step,
    Transition,
    Velocity,
)


class Start(Protocol):
    """Draws the initial noise."""

    def __call__(self, group: Tensor, shape: Sequence[int], draws: Draws) -> Tensor:
        """x_1 [N,*D] for samples of ``group`` [N]; ``draws`` has one stream per sample."""


class Sampler(Protocol):
    """Turns noise into samples by ``num_steps`` calls of ``step``."""

    @property
    def num_steps(self) -> int: ...

    def times(self) -> Tensor:
        """The grid [K+1], strictly decreasing from 1 to 0."""

    def step(self, velocity: Velocity, x: Tensor, k: int, cond: Cond, carry: Any, draws: Draws) -> Step:
        """From time ``times()[k]`` to ``times()[k + 1]``; ``carry`` is None at k = 0."""


@runtime_checkable
class HasTransition(Protocol):
    """A sampler whose scored steps have a density."""

    def transition(self, x: Tensor, k: Tensor) -> Transition:
        """The Gaussian from states ``x`` [B,*D] at steps ``k`` [B]."""


class Estimator(Protocol):
    """Where the network is evaluated, and how its answer is scored. It reads the rollout, never a network."""

    keep: ClassVar[Keep]

    def queries(self, rollout: Rollout, index: Tensor, draws: Draws) -> Sequence[Query]:
        """T queries for the samples ``index`` [B]; ``draws`` names this iteration's noise."""


class Oracle(Protocol):
    """The log-density of a velocity field. For diagnostics; it is not an Estimator and cannot train."""

    def log_prob(self, velocity: Velocity, x0: Tensor, cond: Cond, draws: Draws) -> Tensor:
        """log p(x0) in nats per dimension [B]."""


class Objective(Protocol):
    """The policy-gradient loss of one query.

    ``uses`` declares what it reads: "v:<role>" or "log_prob:<role>".
    """

    scope: ClassVar[Scope]

    @property
    def uses(self) -> frozenset[str]: ...

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss: ...


class Regularizer(Protocol):
    """A penalty [B], already multiplied by its coefficient."""

    @property
    def uses(self) -> frozenset[str]: ...

    def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor: ...


@runtime_checkable
class HasTerms(Protocol):
    """A Regularizer that is the sum of others."""

    @property
    def terms(self) -> Mapping[str, Regularizer]: ...


class AdvantageFn(Protocol):
    """Rewards of all processes to credit."""

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        """rewards [M], group [M] -> [M], or [M,K] for credit per step."""


@runtime_checkable
class ComparesEachReward(Protocol):
    """An AdvantageFn that wants the rewards one by one instead of their weighted total."""

    def combine(self, rewards: Tensor, weights: Tensor, group: Tensor) -> Tensor:
        """rewards [M,R], their weights [R], group [M] -> [M], or [M,K] for credit per step."""


class Reward(Protocol):
    """Scores images. ``weights`` makes the training total; ``headline`` is what evaluations report first."""

    @property
    def weights(self) -> Mapping[str, float]: ...

    @property
    def headline(self) -> str: ...

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """images [n,...] as the policy decodes them -> {name: [n]}."""


class PromptSet(Protocol):
    """Prompts to train on and, disjoint from them, prompts to evaluate on."""

    @property
    def train(self) -> Sequence[Prompt]: ...

    @property
    def test(self) -> Sequence[Prompt]: ...


class Schedule(Protocol):
    """Decay of a snapshot role: 0 copies its source, 1 freezes it."""

    def __call__(self, step: int) -> float: ...


class Policy(Protocol):
    """A backbone with one set of weights per role; guidance is a property of a role."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def prepare(self, prompts: Sequence[str], folder: Path) -> None:
        """Encode all prompts of a run, once; ``folder`` keeps what is costly for the runs after it."""

    def encode(self, prompts: Sequence[str]) -> Cond: ...

    def decode(self, x0: Tensor) -> Tensor:
        """Images [n,C,H,W] in [0,1]; what has another number of axes is no image."""

    def velocity(self, role: Role) -> Velocity: ...

    def guidance(self, role: Role) -> float:
        """The role's classifier-free guidance scale; 1 is none."""

    @property
    def forwards(self) -> int:
        """Network forwards on single samples so far; guidance makes two of one."""

    def parameters(self) -> Sequence[nn.Parameter]: ...

    def blend(self, role: Role, source: Role, decay: float) -> None:
        """role <- decay * role + (1 - decay) * source, in fp32."""

    def phase(self, name: PhaseName) -> AbstractContextManager[None]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


class Learner(Protocol):
    """Owns what is trained. The default one runs objective, estimator and regularizer over micro-batches."""

    @property
    def keep(self) -> Keep: ...

    def update(self, rollout: Rollout, feedback: Feedback, key: Key) -> dict[str, float]:
        """Learn from one rollout; ``key`` names this iteration's randomness."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
