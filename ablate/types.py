"""Data of the lab; every other module speaks in these, and in the protocols of ``ablate.protocols``.

Conventions, stated once:

- Rectified flow ``x_t = (1 - t) x0 + t eps``; **t = 1 is noise, t = 0 is data**. Velocity ``v = eps - x0``,
  so ``x0_hat = x_t - t v``.
- ``log_prob`` is in nats per latent dimension (mean over ``*D``); ELBO-type scores are unnormalised and
  say so.
- Shapes: ``P`` prompts, ``G`` samples per prompt, ``N = P G`` samples of one process and iteration, ``M``
  samples over all processes, ``B`` micro-batch, ``K`` sampler steps, ``S`` stored steps, ``T`` queries per
  sample, ``*D`` latent.
- A prompt group never crosses a process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from ablate.contract.errors import IncompatibleRun

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
    """One Gaussian step ``x' ~ N(c1 x + c2 v, std^2)`` for a batch (arXiv:2505.05470 Eq. 9 and its kin).

    Attributes:
        c1x: ``c1 * x`` [B,*D].
        c2: factor of the velocity [B,1,..].
        std: standard deviation [B,1,..], > 0 where the step is scored.
        normal: whether a draw is scored by its density; if not, by minus its squared distance to the mean.
        scale: factor of ``log_prob`` [B,1,..]; a temporal profile sets it.
    """

    c1x: Tensor
    c2: Tensor
    std: Tensor
    normal: bool = True
    scale: Tensor | float = 1.0

    def mean(self, v: Tensor) -> Tensor:
        """``c1 x + c2 v`` [B,*D]."""
        return self.c1x + self.c2 * v

    def log_prob(self, x_next: Tensor, v: Tensor) -> Tensor:
        """``log N(x_next; c1 x + c2 v, std^2)`` in nats per dimension, times ``scale`` -> [B].

        If not ``normal``: ``-mean (x_next - c1 x - c2 v)^2``, that of std^2 = 1/2 but for a constant.
        """
        error = x_next - self.mean(v)
        if not self.normal:
            return -(self.scale * error.square()).flatten(1).mean(1)
        residual = error / self.std
        density = -0.5 * residual.square() - self.std.log() - HALF_LOG_TWO_PI
        return (self.scale * density).flatten(1).mean(1)

    def target(self, x_next: Tensor) -> Tensor:
        """The velocity under which ``x_next`` is the mean: ``(x_next - c1 x) / c2`` [B,*D]."""
        return (x_next - self.c1x) / self.c2

    def sample(self, v: Tensor, noise: Tensor) -> Tensor:
        """``c1 x + c2 v + std noise`` [B,*D]."""
        return self.mean(v) + self.std * noise

    def divergence(self, v: Tensor, other: Tensor) -> Tensor:
        """KL of the steps under two velocities, ``mean (c2 (v - other))^2 / (2 std^2)`` per dimension [B].

        If not ``normal``: without the variance, as ``log_prob`` is. In nats, whatever ``scale``.
        """
        return self._divergence(v, other).flatten(1).mean(1)

    def bias(self, v: Tensor, other: Tensor) -> Tensor:
        """Mean of ``log_prob`` under ``other`` less that under v over the draws of ``other``: [B], >= 0."""
        return (self.scale * self._divergence(v, other)).flatten(1).mean(1)

    def _divergence(self, v: Tensor, other: Tensor) -> Tensor:
        square = (self.c2 * (v - other)).square()
        return square / (2 * self.std.square()) if self.normal else square


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
    """Stored steps of a rollout.

    Attributes:
        x, x_next: states before and after each step [N,S,*D].
        k: step number [N,S] i64.
        v: velocity at ``x`` [N,S,*D], where all states are kept.
        log_prob: the drawing role's score of each step [N,S], where steps are scored.
    """

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
class ScoredStep:
    """The sampler's step a query scores: its Gaussian, and its length ``t - t'`` > 0 [B]."""

    transition: Transition
    length: Tensor


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
        step: the step that is scored, where one is.
    """

    x_t: Tensor
    t: Tensor
    k: Tensor
    cond: Cond
    target: Tensor
    log_prob: Callable[[Tensor], Tensor]
    known: Mapping[Role, Tensor] = field(default_factory=dict)
    gain: Tensor | float = 1.0
    step: ScoredStep | None = None

    def scored_step(self) -> ScoredStep:
        """The step.

        Raises:
            IncompatibleRun: the estimator re-noises, so there is none.
        """
        if self.step is None:
            raise IncompatibleRun(
                "a part reads the Gaussian of a scored step, which this estimator has not: "
                "choose estimator=trajectory"
            )
        return self.step


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
    """All endpoints and advantages of each row's group, the row itself first.

    ``x0`` [B,G,*D], ``advantage`` [B,G].
    """

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
