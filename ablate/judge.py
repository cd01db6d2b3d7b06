"""Rewards of a rollout, and the credit that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ablate.contract import keys
from ablate.contract.errors import DivergedRun, IncompatibleRun
from ablate.distributed import Distributed
from ablate.groups import zero_std_share
from ablate.protocols import AdvantageFn, ComparesEachReward, Policy, Reward
from ablate.types import Feedback, Prompt, Rollout


def score(
    policy: Policy, reward: Reward, x0: Tensor, prompts: Sequence[Prompt], chunk: int
) -> dict[str, Tensor]:
    """Every reward of every sample, {name: [N]} fp32.

    Raises:
        IncompatibleRun: ``reward.weights`` or ``reward.headline`` names a reward that is not returned.
    """
    parts = []
    with torch.no_grad(), policy.phase("reward"):
        for first in range(0, len(x0), chunk):
            rows = slice(first, first + chunk)
            parts.append(reward(policy.decode(x0[rows]), prompts[rows]))
    scores = {name: torch.cat([part[name] for part in parts]).float() for name in parts[0]}
    unknown = sorted({*reward.weights, reward.headline} - set(scores))
    if not reward.weights:
        raise IncompatibleRun(f"reward.weights is empty; give a weight to one of {sorted(scores)}, e.g. 1.0")
    if unknown:
        raise IncompatibleRun(
            f"reward names {unknown}, but it returns {sorted(scores)}; mend reward.weights or headline"
        )
    return scores


def judge(
    policy: Policy,
    reward: Reward,
    advantage: AdvantageFn,
    rollout: Rollout,
    prompts: Sequence[Prompt],
    *,
    chunk: int,
    distributed: Distributed,
) -> tuple[Feedback, dict[str, float]]:
    """Score the samples, compare them over all processes, and take this process's share of the credit.

    Raises:
        DivergedRun: a reward is not finite; every process raises, so that none waits for another.
    """
    scores = score(policy, reward, rollout.x0, prompts, chunk)
    total = torch.stack([weight * scores[name] for name, weight in reward.weights.items()]).sum(0)
    names = [*scores, "total"]
    table = torch.stack([*scores.values(), total], 1)
    everyone = distributed.gather(table)
    group = distributed.gather(rollout.group)
    everyones = dict(zip(names, everyone.unbind(1), strict=True))
    check_finite(everyones, distributed.rank * len(prompts), prompts)
    credit = _credit(advantage, reward, everyones, group)
    own = slice(distributed.rank * len(total), (distributed.rank + 1) * len(total))
    return Feedback(everyone[own, -1], credit[own], rollout.group), _describe(names, everyone, credit, group)


def check_finite(scores: Mapping[str, Tensor], first: int, prompts: Sequence[Prompt]) -> None:
    """Refuse rewards that are not finite; ``prompts`` are those of the samples from ``first`` on.

    Raises:
        DivergedRun: naming the reward, the value and the sample.
    """
    for name, values in scores.items():
        bad = (~values.isfinite()).nonzero().flatten().tolist()
        if bad:
            own = [n - first for n in bad if 0 <= n - first < len(prompts)]
            where = (
                f"prompt {prompts[own[0]].text!r}" if own else f"sample {bad[0]}, drawn by another process"
            )
            raise DivergedRun(
                f"reward '{name}' is {float(values[bad[0]])} for {len(bad)} of {len(values)} samples, "
                f"first for {where}; a reward must be finite: look at the sample, or mend the reward"
            )


def _credit(advantage: AdvantageFn, reward: Reward, scores: Mapping[str, Tensor], group: Tensor) -> Tensor:
    """Credit from the total, or from the rewards with a weight where the part asks for each."""
    if not isinstance(advantage, ComparesEachReward):
        return advantage(scores["total"], group)
    each = torch.stack([scores[name] for name in reward.weights], 1)
    return advantage.combine(each, each.new_tensor(list(reward.weights.values())), group)


def _describe(names: Sequence[str], scores: Tensor, credit: Tensor, group: Tensor) -> dict[str, float]:
    row = {}
    for name, values in zip(names, scores.unbind(1), strict=True):
        row[keys.reward_mean(name)] = float(values.mean())
        row[keys.reward_std(name)] = float(values.std(correction=0))
    row[keys.ADVANTAGE_ABS_MEAN] = float(credit.abs().mean())
    row[keys.GROUP_ZERO_STD] = zero_std_share(scores[:, -1], group)
    return row
