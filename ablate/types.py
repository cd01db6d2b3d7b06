"""Data and protocols of the lab; every other module speaks in these.

Conventions, stated once:

- Rectified flow ``x_t = (1 - t) x0 + t eps``; **t = 1 is noise, t = 0 is data**. Velocity ``v = eps - x0``, so
  ``x0_hat = x_t - t v``.
- ``log_prob`` is in nats per latent dimension (mean over ``*D``); ELBO-type scores are unnormalised and say so.
- Shapes: ``P`` prompts, ``G`` samples per prompt, ``N = P G`` samples of one process and iteration, ``M`` samples over
  all processes, ``B`` micro-batch, ``K`` sampler steps, ``S`` stored steps, ``T`` queries per sample, ``*D`` latent.
- A prompt group never crosses a process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from ablate.key import Draws, Key

Cond = Mapping[str, Tensor]  # what a policy needs of a prompt; every tensor has the batch first
Role = str
Velocity = Callable[[Tensor, Tensor, Cond], Tensor]  # (x_t [B,*D], t [B], cond) -> v [B,*D]
Keep = Literal["x0", "transitions", "states"]
Scope = Literal["sample", "siblings", "group"]
PhaseName = Literal["rollout", "reward", "update"]


@dataclass(frozen=True)
class Prompt:
    """A caption with what its reward must know. ``tag`` names the task kind evaluations are split by."""

    text: str
    tag: str
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Transition:
    """One Gaussian step ``x' ~ N(c1 x + c2 v, std^2)`` for a batch (baselines: arXiv:2505.05470 Eq. 9 and its kin).

    Attributes:
        c1x: ``c1 * x`` [B,*D].
        c2: factor of the velocity [B,1,..].
        std: standard deviation [B,1,..], > 0.
    """

    c1x: Tensor
    c2: Tensor
    std: Tensor

    def mean(self, v: Tensor) -> Tensor:
        """``c1 x + c2 v`` [B,*D]."""
        return self.c1x + self.c2 * v

    def log_prob(self, x_next: Tensor, v: Tensor) -> Tensor:
        """``log N(x_next; c1 x + c2 v, std^2)`` in nats per dimension -> [B]."""
        residual = (x_next - self.mean(v)) / self.std
        density = -0.5 * residual.square() - self.std.log() - HALF_LOG_TWO_PI
        return density.flatten(1).mean(1)

    def target(self, x_next: Tensor) -> Tensor:
        """The velocity under which ``x_next`` is the mean: ``(x_next - c1 x) / c2`` [B,*D]."""
        return (x_next - self.c1x) / self.c2

    def sample(self, v: Tensor, noise: Tensor) -> Tensor:
        """``c1 x + c2 v + std noise`` [B,*D]."""
        return self.mean(v) + self.std * noise


HALF_LOG_TWO_PI = 0.9189385332046727


@dataclass(frozen=True)
class Step:
    """What a sampler's step returns; ``log_prob`` is None when the step is not scored."""

    x: Tensor
    v: Tensor
    log_prob: Tensor | None
    carry: Any  # whatever the sampler wants back at its next step


@dataclass(frozen=True)
class Path:
    """Stored steps of a rollout: states ``x``, ``x_next`` [N,S,*D], step number ``k`` [N,S], ``v``, ``log_prob``."""

    x: Tensor
    x_next: Tensor
    k: Tensor
    v: Tensor | None = None
    log_prob: Tensor | None = None


@dataclass(frozen=True)
class Rollout:
    """The samples of one process and iteration.

    Attributes:
        x0: final samples [N,*D], fp32.
        group: which samples are compared with one another [N] i64.
        sample: number of each sample over all processes [N] i64; it names the sample's randomness.
        cond: conditioning, batch first.
        drawn_by: the role that drew.
        path: stored steps, or None if none were asked for.
    """

    x0: Tensor
    group: Tensor
    sample: Tensor
    cond: Cond
    drawn_by: Role
    path: Path | None = None


@dataclass(frozen=True)
class Query:
    """Where to evaluate the networks, and how to score any velocity there.

    Every likelihood estimator is a weighted velocity regression: ``log_prob(v)`` rises as v nears ``target``.

    Attributes:
        x_t, t, k: state [B,*D], time [B], step number [B] (0 where the estimator has no steps).
        cond: conditioning, batch first.
        target: regression target [B,*D].
        log_prob: v [B,*D] -> [B].
        known: scores that need no forward, by role.
        gain: weight of the query outside any ratio or clip, [B] or a number.
    """

    x_t: Tensor
    t: Tensor
    k: Tensor
    cond: Cond
    target: Tensor
    log_prob: Callable[[Tensor], Tensor]
    known: Mapping[Role, Tensor] = field(default_factory=dict)
    gain: Tensor | float = 1.0


@dataclass(frozen=True)
class Evaluation:
    """The networks' answers to a query: ``v`` and ``log_prob`` of theta with gradient, others without.

    ``v_of`` and ``log_prob_of`` hold exactly what the parts declared in ``uses``; reading more is a KeyError.
    """

    query: Query
    v: Tensor
    log_prob: Tensor
    v_of: Mapping[Role, Tensor]
    log_prob_of: Mapping[Role, Tensor]


@dataclass(frozen=True)
class Siblings:
    """All endpoints and advantages of each row's group: ``x0`` [B,G,*D], ``advantage`` [B,G]."""

    x0: Tensor
    advantage: Tensor


@dataclass(frozen=True)
class Feedback:
    """Reward and credit. Over an iteration ``advantage`` is [N] or [N,K]; objectives always see [B]."""

    reward: Tensor
    advantage: Tensor
    group: Tensor
    siblings: Siblings | None = None


@dataclass(frozen=True)
class Loss:
    """``per_sample`` [B] to be minimised, and scalars to log."""

    per_sample: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


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
    """The policy-gradient loss of one query. ``uses`` declares what it reads: "v:<role>" or "log_prob:<role>"."""

    scope: ClassVar[Scope]

    @property
    def uses(self) -> frozenset[str]: ...

    def __call__(self, ev: Evaluation, fb: Feedback) -> Loss: ...


class Regularizer(Protocol):
    """A penalty [B], already multiplied by its coefficient."""

    @property
    def uses(self) -> frozenset[str]: ...

    def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor: ...


class AdvantageFn(Protocol):
    """Rewards of all processes to credit."""

    def __call__(self, rewards: Tensor, group: Tensor) -> Tensor:
        """rewards [M], group [M] -> [M], or [M,K] for credit per step."""


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

    def encode(self, prompts: Sequence[str]) -> Cond: ...

    def decode(self, x0: Tensor) -> Tensor: ...

    def velocity(self, role: Role) -> Velocity: ...

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

