"""GenEval: does an image show the objects, counts, colors, positions of its prompt (arXiv:2310.11513)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ablate.contract.errors import IncompatibleRun
from ablate.rewards.geneval_rules import Detection, correct, found, training_reward
from ablate.types import Prompt


class Detector(Protocol):
    """Finds objects in images and names their colors."""

    def __call__(self, images: Tensor, colored: Sequence[frozenset[str]]) -> Sequence[Sequence[Detection]]:
        """Detections in images [n,3,H,W] in [0,1]; those of the classes ``colored[i]`` with their color."""


@dataclass(frozen=True)
class GenEval:
    """``score``, the published training reward; ``strict``, its exact form; ``correct``, the benchmark's.

    Attributes:
        weights: weight of each score in the training total.
        headline: the score evaluations report first.
        detector: what looks at the images.
        parity: score as published, quirks included (``geneval_rules.training_reward``).
    """

    weights: Mapping[str, float]
    headline: str
    detector: Detector
    parity: bool

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """images [n,3,H,W] in [0,1] -> {name: [n]} in fp32 on the images' device.

        Raises:
            IncompatibleRun: a prompt says nothing of objects.
        """
        for prompt in prompts:
            if "include" not in prompt.metadata:
                raise IncompatibleRun(
                    f"reward=geneval cannot judge the prompt {prompt.text!r}: it names no objects; "
                    "choose prompts in GenEval's .jsonl format"
                )
        colored = [_colored(prompt) for prompt in prompts]
        rows = []
        for detections, prompt in zip(self.detector(images, colored), prompts, strict=True):
            objects = found(detections, prompt.tag)
            score, strict = training_reward(objects, prompt.metadata, parity=self.parity)
            rows.append((score, float(strict), float(correct(objects, prompt.metadata))))
        columns = torch.tensor(rows, device=images.device).unbind(1)
        return dict(zip(("score", "strict", "correct"), columns, strict=True))


def _colored(prompt: Prompt) -> frozenset[str]:
    include = prompt.metadata["include"]
    assert isinstance(include, list)
    return frozenset(clause["class"] for clause in include if "color" in clause)
