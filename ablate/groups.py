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
    return (total / count)[member]


def group_std(values: Tensor, group: Tensor) -> Tensor:
    """Population standard deviation of each sample's group, for every sample: [M] -> [M]."""
    return group_mean((values - group_mean(values, group)).square(), group).sqrt()


def zero_std_share(values: Tensor, group: Tensor) -> float:
    """Share of groups whose rewards are all equal: they teach nothing."""
    std = group_std(values.double(), group)
    groups = len(torch.unique(group))
    return len(torch.unique(group[std < 1e-8])) / groups


def batches(index: Tensor, size: int) -> Iterator[Tensor]:
    """Consecutive micro-batches. Groups lie side by side, so a multiple of the group size keeps them whole."""
    return iter(index.split(size))


def feedback_of(feedback: Feedback, rollout: Rollout, index: Tensor, k: Tensor, scope: Scope) -> Feedback:
    """Credit of a micro-batch: [N] or [N,K] read at step ``k`` -> [B], with siblings where the scope asks."""
    advantage = feedback.advantage[index]
    if advantage.dim() == 2:
        advantage = advantage.gather(1, k.view(len(index), -1)[:, :1]).squeeze(1)
    part = Feedback(feedback.reward[index], advantage, feedback.group[index])
    return replace(part, siblings=siblings(feedback, rollout, index)) if scope == "siblings" else part


def siblings(feedback: Feedback, rollout: Rollout, index: Tensor) -> Siblings:
    """All members of each row's group, the row itself included."""
    members = [(rollout.group == label).nonzero().squeeze(1) for label in rollout.group[index].tolist()]
    rows = torch.stack(members)  # raises if groups differ in size, which batches never makes
    credit = feedback.advantage if feedback.advantage.dim() == 1 else feedback.advantage.mean(1)
    return Siblings(rollout.x0[rows], credit[rows])
