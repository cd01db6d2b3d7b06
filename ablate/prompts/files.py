"""Prompt sets from files in the field's own formats: GenEval's jsonl, or one prompt per line.

Nothing is shipped; Flow-GRPO's repository (arXiv:2505.05470) has GenEval, OCR, PickScore and DrawBench.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ablate.contract.errors import IncompatibleRun, UserError
from ablate.types import Prompt

_RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class PromptFiles:
    """Prompts of two files, ``.jsonl`` with GenEval's fields or ``.txt`` with a prompt on every line.

    Files are read when they are first needed, so that a run composes on a machine that does not have them.

    Attributes:
        train_file, test_file: paths, relative to where the run is started.
        tag: what evaluations call the prompts of a ``.txt`` file; a ``.jsonl`` line has its own tag.
        drop_overlap: leave training prompts out that are in the test file too, instead of refusing them.

    Raises:
        UserError: on reading, where a file is missing, a line is broken, or train and test overlap.
    """

    train_file: str
    test_file: str
    tag: str
    drop_overlap: bool

    @cached_property
    def train(self) -> tuple[Prompt, ...]:
        """In the file's order, repeats included."""
        tested = {_plain(prompt.text) for prompt in self.test}
        prompts = read(self.train_file, self.tag)
        kept = tuple(prompt for prompt in prompts if _plain(prompt.text) not in tested)
        if len(kept) < len(prompts) and not self.drop_overlap:
            first = next(prompt.text for prompt in prompts if _plain(prompt.text) in tested)
            raise IncompatibleRun(
                f"{len(prompts) - len(kept)} of {len(prompts)} prompts of {self.train_file} are in "
                f"{self.test_file} too (first: {first!r}); "
                "prompts.drop_overlap=true leaves them out of training"
            )
        if not kept:
            raise IncompatibleRun(f"no prompt of {self.train_file} is left to train on; choose another file")
        return kept

    @cached_property
    def test(self) -> tuple[Prompt, ...]:
        """In the file's order, repeats included."""
        return tuple(read(self.test_file, self.tag))


def read(file: str, tag: str) -> list[Prompt]:
    """The prompts of one file.

    Raises:
        UserError: it is missing, empty, of an unknown format, or a line is broken.
    """
    path = Path(file).expanduser()
    parse = {".jsonl": _geneval, ".txt": _line}.get(path.suffix)
    if parse is None:
        raise UserError(f"{path}: prompts come as .jsonl (GenEval's fields) or .txt (one prompt per line)")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such prompt file; put it there, or name yours in conf/prompts"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not lines:
        raise UserError(f"{path} holds no prompts; put one on every line")
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            prompts.append(parse(line, tag))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} line {number} is broken: {_reason(error)}") from error
    return prompts


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _line(line: str, tag: str) -> Prompt:
    if not line.strip():
        raise ValueError("it is empty")
    return Prompt(line.strip(), tag)


def _geneval(line: str, tag: str) -> Prompt:
    del tag
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    text, own = row["prompt"], row["tag"]
    if not (isinstance(text, str) and text.strip() and isinstance(own, str) and own):
        raise ValueError("prompt and tag must be words")
    include, exclude = row["include"], row.get("exclude", [])
    for clause in _clauses(include, exclude):
        _check_clause(clause, len(include))
    return Prompt(text, own, {"include": include, "exclude": exclude})


def _clauses(include: Any, exclude: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(include, list) or not include or not isinstance(exclude, list):
        raise ValueError("include must be a list of clauses, and exclude one if it is there")
    yield from include
    yield from exclude


def _check_clause(clause: Any, clauses: int) -> None:
    named, count = clause["class"], clause["count"]
    if not isinstance(named, str) or type(count) is not int or count < 1:
        raise ValueError(f"a clause needs a class and a count of 1 or more, not {clause}")
    if "position" in clause:
        relation, target = clause["position"]
        if relation not in _RELATIONS or type(target) is not int or not 0 <= target < clauses:
            raise ValueError(f"position must be one of {', '.join(_RELATIONS)} and a clause's number")
