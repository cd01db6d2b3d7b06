"""Prompts of the `shapes` bed: six task kinds, a quarter of the combinations held out for testing."""

from __future__ import annotations

from dataclasses import dataclass

from ablate.shapes.scenes import TASKS, Caption, captions, is_held_out
from ablate.types import Prompt


@dataclass(frozen=True)
class ShapesPrompts:
    """Balanced over the tasks; captions are repeated where a task has fewer than asked for.

    Attributes:
        train_per_task, test_per_task: prompts of each task kind. Of the captions only the four of
            `single_object` are in both.
        search: evaluate on training captions instead: a search for settings must not see the held-out ones.
    """

    train_per_task: int = 104
    test_per_task: int = 32
    search: bool = False

    @property
    def train(self) -> tuple[Prompt, ...]:
        """Task kinds in turn, so that any run of six prompts has one of each."""
        return self._balanced(held_out=False, per_task=self.train_per_task)

    @property
    def test(self) -> tuple[Prompt, ...]:
        """As `train`, of the held-out captions."""
        return self._balanced(held_out=not self.search, per_task=self.test_per_task)

    def _balanced(self, *, held_out: bool, per_task: int) -> tuple[Prompt, ...]:
        lists = [_spread(_of(task, held_out), per_task) for task in TASKS]
        return tuple(
            Prompt(caption.text, caption.task, caption.metadata)
            for turn in zip(*lists, strict=True)
            for caption in turn
        )


def _of(task: str, held_out: bool) -> list[Caption]:
    """The task's captions of one side of the split; all of them where none is held out."""
    return [c for c in captions(task) if is_held_out(c) == held_out] or list(captions(task))


def _spread(items: list[Caption], length: int) -> list[Caption]:
    """``length`` items, evenly from all if there are more, in turn and again if there are fewer."""
    if len(items) > length:
        return [items[i * len(items) // length] for i in range(length)]
    return [items[i % len(items)] for i in range(length)]
