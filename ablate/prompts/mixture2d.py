"""Prompts of the mixture2d testbed: its eight modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ablate.mixture2d.density import MODES
from ablate.types import Prompt


@dataclass(frozen=True)
class Mixture2DPrompts:
    """ "mode 0" .. "mode 7". There are no others, so evaluation uses the same eight."""

    @property
    def train(self) -> Sequence[Prompt]:
        return [Prompt(f"mode {c}", "mode", {"mode": c}) for c in range(MODES)]

    @property
    def test(self) -> Sequence[Prompt]:
        return self.train
