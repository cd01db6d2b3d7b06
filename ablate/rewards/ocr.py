"""OCR: does the image show the text its prompt quotes (the reward of arXiv:2505.05470)."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ablate.contract.errors import IncompatibleRun
from ablate.types import Prompt


class Recogniser(Protocol):
    """Reads images."""

    def __call__(self, images: Tensor) -> Sequence[str]:
        """All text of each of the images [n,3,H,W] in [0,1], in reading order."""


@dataclass(frozen=True)
class OCR:
    """``accuracy = 1 - min(distance, length) / length`` of what is read to the quoted text.

    Attributes:
        weights: weight of each score in the training total.
        headline: the score evaluations report first.
        recogniser: what reads the images.
    """

    weights: Mapping[str, float]
    headline: str
    recogniser: Recogniser

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """images [n,3,H,W] in [0,1] -> {"accuracy": [n]} in fp32 on the images' device.

        Raises:
            IncompatibleRun: a prompt quotes no text.
        """
        targets = [quoted(prompt.text) for prompt in prompts]
        read = self.recogniser(images)
        scores = [accuracy(text, target) for text, target in zip(read, targets, strict=True)]
        return {"accuracy": torch.tensor(scores, device=images.device)}


def quoted(prompt: str) -> str:
    """The text between a prompt's first two double quotes.

    Raises:
        IncompatibleRun: there is none.
    """
    found = re.search(r'"([^"]*)"', prompt)
    if found is None or not _plain(found[1]):
        raise IncompatibleRun(
            f"reward=ocr cannot judge the prompt {prompt!r}: it quotes no text; "
            'write the text in quotes, as in: a sign that says "open"'
        )
    return found[1]


def accuracy(read: str, target: str) -> float:
    """1 where ``target`` is in ``read``, else by Levenshtein distance; case and spaces do not count."""
    read, target = _plain(read), _plain(target)
    distance = 0 if target in read else levenshtein(read, target)
    return 1 - min(distance, len(target)) / len(target)


def levenshtein(a: str, b: str) -> int:
    """Fewest insertions, deletions and substitutions from ``a`` to ``b``."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]


def _plain(text: str) -> str:
    return text.replace(" ", "").lower()


@dataclass(frozen=True)
class RapidOCR:
    """The recogniser of the package ``rapidocr``, with the models it ships.

    Attributes:
        least_score: lines read with a lower confidence are dropped.

    Raises:
        IncompatibleRun: the package is not installed.
    """

    least_score: float

    def __post_init__(self) -> None:
        if importlib.util.find_spec("rapidocr") is None:
            raise IncompatibleRun(
                "reward=ocr needs the package rapidocr, which is not installed; "
                "install it with: pip install rapidocr onnxruntime"
            )

    @cached_property
    def _engine(self) -> Any:
        from rapidocr import RapidOCR as Engine

        return Engine(params={"Global.log_level": "error"})  # else it tells of every empty image

    def __call__(self, images: Tensor) -> list[str]:
        pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [self._read(image) for image in pixels]

    def _read(self, image: Any) -> str:
        found = self._engine(image)
        if found.txts is None:
            return ""
        lines = zip(found.txts, found.scores, strict=True)
        return "".join(text for text, score in lines if score > self.least_score)
