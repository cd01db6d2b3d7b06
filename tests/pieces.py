"""What several tests share: flows with closed forms, a way to run a sampler, and evaluations made by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ablate.key import Draws, Key
from ablate.protocols import HasTransition, Objective, Policy, Regularizer, Sampler, Start
from ablate.rollout import Request, collect
from ablate.types import Cond, Evaluation, Feedback, Keep, Query, Role, Rollout, Step, Velocity


@dataclass(frozen=True)
class Gaussian:
    """The exact velocity ``E[eps - x0 | x_t]`` of data N(mean, std^2) in every dimension."""

    mean: float
    std: float

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        del cond
        t = t.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        variance = ((1 - t) * self.std).square() + t.square()
        return (t - (1 - t) * self.std**2) / variance * (x - (1 - t) * self.mean) - self.mean

    def flow(self, x_1: Tensor) -> Tensor:
        """Where the probability-flow ODE takes x_1."""
        return self.mean + self.std * x_1


def draws(rows: int, *words: int | str) -> Draws:
    """Named randomness for rows 0 .. rows - 1."""
    return Key(("test", *words)).rows(torch.arange(rows))


def run(sampler: Sampler, velocity: Velocity, x: Tensor, noise: Draws) -> list[Step]:
    """All steps from x_1 = x."""
    steps: list[Step] = []
    carry = None
    for k in range(sampler.num_steps):
        steps.append(sampler.step(velocity, x, k, {}, carry, noise.of("step", k)))
        x, carry = steps[-1].x, steps[-1].carry
    return steps


class Quiet(Draws):
    """Noise that is zero, so that an SDE shows its mean."""

    def of(self, *words: int | str) -> Quiet:
        return Quiet(self.key.of(*words), self.numbers)

    def normal(self, *shape: int) -> Tensor:
        return torch.zeros(len(self.numbers), *shape, dtype=torch.float64)


def quiet(rows: int) -> Quiet:
    return Quiet(Key(("test", 0)), torch.arange(rows))


def moments(sampler: Sampler, flow: Gaussian) -> tuple[float, float]:
    """Mean and deviation of the samples in closed form: with this flow every step is affine in x."""
    assert isinstance(sampler, HasTransition)
    mean, variance, points = 0.0, 1.0, torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for k in range(sampler.num_steps):
        zero, one = sampler.step(flow, points, k, {}, None, quiet(2)).x.squeeze(1).tolist()
        last = k == sampler.num_steps - 1  # its noise is 0, or too small to see
        std = 0.0 if last else float(sampler.transition(points[:1], torch.tensor([k])).std)
        mean, variance = zero + (one - zero) * mean, (one - zero) ** 2 * variance + std**2
    return mean, variance**0.5


def network_calls(sampler: Sampler) -> int:
    """How often the sampler asks the network for one sample."""
    asked: list[Tensor] = []

    def velocity(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        asked.append(t)
        return 0.1 * x

    run(sampler, velocity, draws(1).normal(1), draws(1))
    return len(asked)


def sample(
    policy: Policy, sampler: Sampler, start: Start, *, keep: Keep, groups: int, size: int, chunk: int = 10**6
) -> Rollout:
    """A rollout of ``groups`` mixture2d prompts, ``size`` samples each, drawn by old."""
    group = torch.arange(groups).repeat_interleave(size)
    request = Request("old", group, torch.arange(len(group)), keep, chunk)
    prompts = [f"mode {g % 8}" for g in group.tolist()]
    return collect(policy, sampler, start, prompts, request=request, key=Key((0, 0, "rollout")))


def evaluation(
    query: Query, v: Tensor, velocities: Mapping[Role, Tensor], reader: Objective | Regularizer
) -> Evaluation:
    """What ``reader`` declared of these velocities, and nothing else; ``v`` is theta's."""
    wanted = {
        kind: [u.removeprefix(kind) for u in reader.uses if u.startswith(kind)]
        for kind in ("v:", "log_prob:")
    }
    return Evaluation(
        query=query,
        v=v,
        log_prob=query.log_prob(v),
        v_of={role: velocities[role] for role in wanted["v:"]},
        log_prob_of={role: query.log_prob(velocities[role]) for role in wanted["log_prob:"]},
    )


def credit(advantage: Tensor, group: Tensor | None = None) -> Feedback:
    """Feedback of a micro-batch; one group unless said otherwise."""
    return Feedback(advantage, advantage, torch.zeros(len(advantage)).long() if group is None else group)


def point(x0: Tensor, eps: Tensor, t: Tensor, weighting: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Query:
    """An ELBO query at x_t = (1 - t) x0 + t eps, without an estimator."""
    at = t.view(-1, *[1] * (x0.dim() - 1))
    target = eps - x0
    return Query(
        x_t=(1 - at) * x0 + at * eps,
        t=t,
        k=torch.zeros(len(t)).long(),
        cond={},
        target=target,
        log_prob=lambda v: weighting(v, target, t),
    )


def gradient(
    objective: Objective, query: Query, v: Tensor, of: Mapping[Role, Tensor], fb: Feedback
) -> Tensor:
    """d mean(loss) / dv [B,*D]."""
    v = v.detach().requires_grad_()
    loss = objective(evaluation(query, v, of, objective), fb).per_sample
    assert loss.shape == (len(v),)
    return torch.autograd.grad(loss.mean(), v)[0]


def only(rollout: Rollout, index: Tensor) -> Rollout:
    """Some samples of a rollout, with nothing else left of it."""
    path = rollout.path
    if path is not None:
        kept = {name: None if value is None else value[index] for name, value in vars(path).items()}
        path = replace(path, **kept)
    return Rollout(
        x0=rollout.x0[index],
        group=rollout.group[index],
        sample=rollout.sample[index],
        cond={name: value[index] for name, value in rollout.cond.items()},
        drawn_by=rollout.drawn_by,
        path=path,
    )
