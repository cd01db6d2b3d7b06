"""Checks of what was drawn: images, rewards, advantages."""

from __future__ import annotations

import torch
from torch import Tensor

from ablate.groups import group_mean
from ablate.preflight.finding import Finding, absent
from ablate.preflight.trial import Trial

_GREY = 1e-3  # a quarter of one of 255 grey levels
_FEW = 32  # where the base solves one in ten, 32 rewards are all 0 once in 29 runs, and 128 once in 700,000
_CENTRED = 1e-5  # of the largest advantage; fp32 keeps 1e-7


def images_in_range(trial: Trial) -> Finding:
    """Images [n,C,H,W] lie in [0,1]; what a policy decodes to another shape is no image."""
    name = "image_range"
    with torch.no_grad(), trial.policy.phase("reward"):
        images = trial.policy.decode(trial.rollout.x0[trial.rows[: trial.batch.rollout]])
    if images.dim() != 4:
        return absent(name, "the policy decodes no images")
    excess = torch.cat([-images.flatten(), images.flatten() - 1]).max()  # NaN stays NaN
    number = float(excess.clamp(min=0))
    seen = f"[{float(images.min()):.3g}, {float(images.max()):.3g}]"
    what = f"the excess over [0, 1] of decoded images, which lie in {seen},"
    cure = "mend the policy's decode: rewards and pictures read pixels in [0, 1]"
    return Finding(name, what, number, f"at most {_GREY}", number <= _GREY, cure)


def rewards_differ(trial: Trial) -> Finding:
    """Largest less smallest total reward, over all processes; a few may be equal by chance."""
    name, reward = "reward_spread", trial.distributed.gather(trial.feedback.reward)
    if len(reward) < _FEW:
        return absent(name, f"{len(reward)} rewards are too few to tell a broken reward from chance")
    number = float(reward.max() - reward.min())
    what = f"largest less smallest of the first {len(reward)} rewards, from {float(reward.min()):.3g} on,"
    cure = (
        "equal rewards teach nothing: mend the reward, raise batch.prompts or batch.group_size, "
        "or choose prompts the base sometimes solves"
    )
    return Finding(name, what, number, "finite and above 0", 0 < number < torch.inf, cure)


def advantages_centred(trial: Trial) -> Finding:
    """A part that promises it gives each group credit that adds to 0.

    Asked with rewards evenly spaced about the mean of their group, since a clip, which may rightly act on the
    rollout's, is odd and takes as much from both sides.
    """
    name = "advantage_centred"
    if "centred" not in trial.promises:
        return absent(name, "the advantage does not promise to be centred")
    group = trial.rollout.group
    credit = trial.parts.advantage(_evenly_spaced(group), group)
    columns = credit[:, None] if credit.dim() == 1 else credit
    means = torch.stack([group_mean(column.double(), group) for column in columns.unbind(1)])
    number = float(means.abs().max() / columns.abs().max().clamp(min=1e-12))
    what = "the largest |mean of a group's advantages|, in units of the largest advantage,"
    cure = "subtract the mean of the group and of nothing else, or let its yaml not provide 'centred'"
    return Finding(name, what, number, f"at most {_CENTRED}", number <= _CENTRED, cure)


def _evenly_spaced(group: Tensor) -> Tensor:
    """0, 1/G .. (G-1)/G within each group, groups apart [N]."""
    alike = group[:, None] == group
    place = alike.tril(-1).sum(1) / alike.sum(1)
    number: Tensor = torch.unique(group, return_inverse=True)[1]
    return place + number
