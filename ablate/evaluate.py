"""Evaluation: fixed prompts, fixed noise, its own sampler and weights. It costs no device-hours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from ablate.contract import keys
from ablate.contract.errors import IncompatibleRun
from ablate.distributed import Distributed
from ablate.judge import check_finite, score
from ablate.key import Key
from ablate.pictures import save_grid
from ablate.protocols import Policy, PromptSet, Reward, Sampler
from ablate.rollout import Request, collect
from ablate.settings import EvaluationSettings
from ablate.starts.noise import Noise
from ablate.types import Prompt

_PICTURED_PER_TAG = 4


@dataclass(frozen=True)
class Evaluator:
    """The same images in every run of a policy, but for the weights that draw them."""

    settings: EvaluationSettings
    sampler: Sampler
    prompts: PromptSet
    reward: Reward
    distributed: Distributed

    def __post_init__(self) -> None:
        samples = len(self.prompts.test) * self.settings.samples_per_prompt
        if samples < self.distributed.world:
            raise IncompatibleRun(
                f"evaluation draws {samples} samples, fewer than the {self.distributed.world} processes; "
                "raise evaluation.samples_per_prompt"
            )

    def __call__(self, policy: Policy, picture: Path) -> dict[str, Any]:
        """Mean rewards, over all prompts and by tag; every value and its prompt. Rank 0 draws ``picture``."""
        asked = [prompt for prompt in self.prompts.test for _ in range(self.settings.samples_per_prompt)]
        rank, world = self.distributed.rank, self.distributed.world
        mine = list(range(len(asked)))[rank::world]
        x0 = self._draw(policy, [asked[n] for n in mine], torch.tensor(mine, device=self.distributed.device))
        scores = score(policy, self.reward, x0, [asked[n] for n in mine], self.settings.batch)
        check_finite(scores, 0, [asked[n] for n in mine])
        values = {name: self._everyone(mine, column.tolist()) for name, column in scores.items()}
        pictured = _pictured(asked)
        shown = {n: row for row, n in enumerate(mine) if n in pictured}
        tiles = self._everyone(list(shown), [policy.decode(x0[r : r + 1]).cpu() for r in shown.values()])
        if self.distributed.is_main:
            save_grid(torch.cat(tiles), picture)
        return _summary(asked, values)

    def _draw(self, policy: Policy, prompts: Sequence[Prompt], sample: Tensor) -> Tensor:
        request = Request(self.settings.role, sample, sample, "x0", self.settings.batch)
        texts = [prompt.text for prompt in prompts]
        key = Key((self.settings.seed, "evaluation"))
        return collect(policy, self.sampler, Noise(), texts, request=request, key=key).x0

    def _everyone(self, numbers: Sequence[int], items: Sequence[Any]) -> list[Any]:
        pairs = self.distributed.gather_objects(list(zip(numbers, items, strict=True)))
        return [item for _, item in sorted(pairs, key=lambda pair: pair[0])]


def _pictured(asked: Sequence[Prompt]) -> set[int]:
    """A few samples of every tag; one tag alone gets a fuller picture."""
    by_tag: defaultdict[str, list[int]] = defaultdict(list)
    for number, prompt in enumerate(asked):
        by_tag[prompt.tag].append(number)
    count = _PICTURED_PER_TAG if len(by_tag) > 1 else len(asked)
    return {number for numbers in by_tag.values() for number in numbers[:count]}


def _summary(asked: Sequence[Prompt], values: dict[str, list[float]]) -> dict[str, Any]:
    tags = [prompt.tag for prompt in asked]
    row: dict[str, Any] = {
        keys.EVAL_VALUES: values,
        keys.EVAL_TAGS: tags,
        keys.EVAL_PROMPTS: [crc32(prompt.text.encode()) for prompt in asked],
    }
    for name, column in values.items():
        row[keys.eval_mean(name)] = sum(column) / len(column)
        for tag in dict.fromkeys(tags):
            own = [value for value, mark in zip(column, tags, strict=True) if mark == tag]
            row[keys.eval_tag(name, tag)] = sum(own) / len(own)
    return row
