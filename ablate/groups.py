"""Statistics over groups, micro-batches of whole groups, and a sample's siblings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ablate.types import Feedback, Rollout, Scope, Siblings


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """Mean over each sample's group, for every sample: [M] -> [M]."""
    _, member, count = torch.unique(group, return_inverse=True, return_counts=True)
    total = torch.zeros(len(count), dtype=values.dtype, device=values.device).index_add_(0, member, values)
    mean: Tensor = total / count
    return mean[member]


def group_sum(values: Tensor, group: Tensor) -> Tensor:
    """Sum over each sample's group, for every sample: [M] -> [M]."""
    _, member, count = torch.unique(group, return_inverse=True, return_counts=True)
    return torch.zeros_like(count, dtype=values.dtype).index_add(0, member, values)[member]


def group_std(values: Tensor, group: Tensor) -> Tensor:
    """Population standard deviation of each sample's group, for every sample: [M] -> [M]."""
    return group_mean((values - group_mean(values, group)).square(), group).sqrt()


def group_max(values: Tensor, group: Tensor) -> Tensor:
    """Largest value of each sample's group, for every sample: [M] -> [M]."""
    _, member = torch.unique(group, return_inverse=True)
    lowest = torch.full((len(values),), -torch.inf, dtype=values.dtype, device=values.device)
    best: Tensor = lowest.scatter_reduce(0, member, values, "amax")
    return best[member]


def group_rows_mean(rows: Tensor, group: Tensor, index: Tensor) -> Tensor:
    """Mean of ``rows`` [N,*D] over the groups of the samples ``index`` [B]: [B,*D]."""
    alike = (group[index, None] == group).to(rows)
    mean: Tensor = alike @ rows.flatten(1) / alike.sum(1, keepdim=True)
    return mean.view_as(rows[index])


def zero_std_share(values: Tensor, group: Tensor) -> float:
    """Share of groups whose rewards are all equal: they teach nothing."""
    std = group_std(values.double(), group)
    groups = len(torch.unique(group))
    return len(torch.unique(group[std < 1e-8])) / groups


def batches(index: Tensor, size: int) -> Iterator[Tensor]:
    """Consecutive micro-batches; groups lie side by side, so multiples of the group size keep them whole."""
    return iter(torch.split(index, size))


def feedback_of(feedback: Feedback, rollout: Rollout, index: Tensor, k: Tensor, scope: Scope) -> Feedback:
    """Credit of a micro-batch: [N], or [N,K] read at steps ``k`` [B] or [B,draws] and averaged over draws.

    With all members of each row's group, the row itself included, where the scope asks for siblings.
    """
    part = Feedback(feedback.reward[index], _credit(feedback, index, k), feedback.group[index])
    return replace(part, siblings=siblings(feedback, rollout, index, k)) if scope == "siblings" else part


def _credit(feedback: Feedback, rows: Tensor, k: Tensor) -> Tensor:
    advantage = feedback.advantage[rows]
    return advantage if advantage.dim() == 1 else advantage.gather(1, k.view(len(rows), -1)).mean(1)


def siblings(feedback: Feedback, rollout: Rollout, index: Tensor, k: Tensor) -> Siblings:
    """The members of each row's group, itself first, with their credit at the row's step ``k`` [B]."""
    alike = rollout.group[index, None] == rollout.group
    alike[torch.arange(len(index), device=index.device), index] = False
    others = [row.nonzero().squeeze(1) for row in alike]
    rows = torch.cat([index[:, None], torch.stack(others)], 1)  # raises if groups differ in size
    credit = [_credit(feedback, row, step.expand(len(row))) for row, step in zip(rows, k, strict=True)]
    return Siblings(rollout.x0[rows], torch.stack(credit))
