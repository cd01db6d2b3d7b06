"""What an evaluation says of every single prompt. R: evaluations, P: different prompts, N: samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ablate.contract import keys

Floats = npt.NDArray[np.float64]

PROMPTS_FROM: Final = 10  # of fewer prompts, an interval over prompts would say nothing


@dataclass(frozen=True)
class PromptScores:
    """One metric of one run, prompt by prompt; samples of the same text are one prompt.

    Of fewer than ten prompts every sample stands for itself (``unit``): its noise is shared too.

    Attributes:
        names: [P], equal in two runs where they were asked the same.
        weight: samples of each prompt / N, [P], so that value @ weight is the mean the evaluation reports.
        value: mean over a prompt's samples, [R,P].
    """

    names: tuple[int, ...]
    weight: Floats
    value: Floats
    unit: str = "prompts"

    def alike(self, other: PromptScores) -> bool:
        """Whether two runs were evaluated on the same prompts, equally often."""
        return self.names == other.names and np.array_equal(self.weight, other.weight)


def prompt_scores(
    rows: Sequence[Mapping[str, Any]], metric: str, samples_per_prompt: int
) -> PromptScores | None:
    """The scores of a run's evaluations; None where one of them kept none, or asked other prompts.

    Args:
        rows: of eval.jsonl. Rows that do not name their prompts (before 2026-11-21) hold
            ``samples_per_prompt`` samples of each in turn: there a text that was asked twice is two prompts.
    """
    asked = [_prompts(row, metric, samples_per_prompt) for row in rows]
    if not asked or not asked[0] or any(other != asked[0] for other in asked):
        return None
    names, group, count = np.unique(asked[0], return_inverse=True, return_counts=True)
    unit = "prompts" if len(names) >= PROMPTS_FROM else "samples"
    if unit == "samples":
        names, group = np.array(asked[0]), np.arange(len(asked[0]))
        count = np.ones(len(group), dtype=np.int64)
    kept = np.array([row[keys.EVAL_VALUES][metric] for row in rows], dtype=np.float64)  # [R,N]
    sums = np.stack([np.bincount(group, weights=values) for values in kept])
    return PromptScores(tuple(names.tolist()), count / count.sum(), sums / count, unit)


def _prompts(row: Mapping[str, Any], metric: str, samples_per_prompt: int) -> list[int]:
    """The prompt of every sample; [] where the row does not keep the scores."""
    values = row.get(keys.EVAL_VALUES)
    kept = values.get(metric) if isinstance(values, Mapping) else None
    if not kept:
        return []
    turns = [number // samples_per_prompt for number in range(len(kept))]
    named = row.get(keys.EVAL_PROMPTS, turns)
    return list(named) if len(named) == len(kept) else []
