"""Draw samples, and keep of their paths what the estimator asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ablate.key import Draws, Key
from ablate.protocols import Policy, Sampler, Start
from ablate.types import Cond, Keep, Path, Role, Rollout, Step, Velocity


@dataclass(frozen=True)
class Request:
    """Who draws, for which samples, and what is kept.

    Attributes:
        role: the drawing role.
        group, sample: labels [N] i64.
        keep: "x0", "transitions" (scored steps) or "states" (all steps with their velocity).
        chunk: samples drawn at a time.
    """

    role: Role
    group: Tensor
    sample: Tensor
    keep: Keep
    chunk: int


def collect(
    policy: Policy, sampler: Sampler, start: Start, prompts: Sequence[str], *, request: Request, key: Key
) -> Rollout:
    """Samples for ``prompts`` (one per sample [N]), drawn in chunks; no gradient.

    The chunk size changes no sample: every sample has its own stream of noise.
    """
    with torch.no_grad(), policy.phase("rollout"):
        cond = policy.encode(prompts)
        parts = []
        for index in torch.split(torch.arange(len(prompts)), request.chunk):
            rows = index.to(request.sample.device)
            part = {name: value[rows] for name, value in cond.items()}
            draws = key.rows(request.sample[rows])
            x_1 = start(request.group[rows], policy.shape, draws)
            parts.append(_run(policy.velocity(request.role), sampler, x_1, part, request.keep, draws))
    x0 = torch.cat([x for x, _ in parts])
    return Rollout(x0, request.group, request.sample, cond, request.role, _join([path for _, path in parts]))


def _run(
    velocity: Velocity, sampler: Sampler, x: Tensor, cond: Cond, keep: Keep, draws: Draws
) -> tuple[Tensor, Path | None]:
    carry: Any = None
    kept: list[tuple[int, Tensor, Step]] = []
    for k in range(sampler.num_steps):
        step = sampler.step(velocity, x, k, cond, carry, draws.of("step", k))
        if keep == "states" or (keep == "transitions" and step.log_prob is not None):
            kept.append((k, x, step))
        x, carry = step.x, step.carry
    return x, _path(kept, keep) if kept else None


def _path(kept: Sequence[tuple[int, Tensor, Step]], keep: Keep) -> Path:
    scores = [step.log_prob for _, _, step in kept if step.log_prob is not None]
    x = torch.stack([x for _, x, _ in kept], 1)
    return Path(
        x=x,
        x_next=torch.stack([step.x for _, _, step in kept], 1),
        k=torch.tensor([k for k, _, _ in kept], device=x.device).expand(len(x), -1),
        v=torch.stack([step.v for _, _, step in kept], 1) if keep == "states" else None,
        log_prob=torch.stack(scores, 1) if len(scores) == len(kept) else None,
    )


def _join(paths: Sequence[Path | None]) -> Path | None:
    whole = [path for path in paths if path is not None]
    if not whole:
        return None
    velocities = [path.v for path in whole if path.v is not None]
    scores = [path.log_prob for path in whole if path.log_prob is not None]
    return Path(
        x=torch.cat([path.x for path in whole]),
        x_next=torch.cat([path.x_next for path in whole]),
        k=torch.cat([path.k for path in whole]),
        v=torch.cat(velocities) if velocities else None,
        log_prob=torch.cat(scores) if scores else None,
    )
