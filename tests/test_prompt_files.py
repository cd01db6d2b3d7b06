"""Prompt files in their published formats: read whole, or refused by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.contract.errors import UserError
from ablate.prompts.files import PromptFiles

CLAUSES = [
    {"class": "cat", "count": 1, "color": "red"},
    {"class": "dog", "count": 2, "position": ["left of", 0]},
]
ROW = {"tag": "position", "include": CLAUSES, "exclude": [{"class": "dog", "count": 3}], "prompt": "a cat"}


def files(folder: Path, train: str, test: str, suffix: str = "txt", **changes: Any) -> PromptFiles:
    for name, text in (("train", train), ("test", test)):
        (folder / f"{name}.{suffix}").write_text(text)
    given = {"tag": "ocr", "drop_overlap": False} | changes
    return PromptFiles(f"{folder}/train.{suffix}", f"{folder}/test.{suffix}", **given)


def test_a_prompt_on_every_line(tmp_path: Path) -> None:
    made = files(tmp_path, 'a sign says "hi"\n a dog \n', "a cat\na cat")
    assert [prompt.text for prompt in made.train] == ['a sign says "hi"', "a dog"]
    assert [(prompt.text, prompt.tag) for prompt in made.test] == [("a cat", "ocr")] * 2


def test_genevals_lines(tmp_path: Path) -> None:
    other = {"tag": "single_object", "include": [{"class": "bird", "count": 1}], "prompt": "a bird"}
    made = files(
        tmp_path, json.dumps(ROW) + "\n" + json.dumps(other), json.dumps(other | {"prompt": "x"}), "jsonl"
    )
    first, second = made.train
    assert (first.text, first.tag) == ("a cat", "position")
    assert first.metadata == {"include": CLAUSES, "exclude": ROW["exclude"]}
    assert second.metadata == {"include": other["include"], "exclude": []}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["line 2 is broken"]),
        ("[]", ["no JSON object"]),
        (json.dumps({"tag": "t", "include": CLAUSES}), ["it has no 'prompt'"]),
        (json.dumps({"prompt": "p", "include": CLAUSES}), ["it has no 'tag'"]),
        (json.dumps({"prompt": "p", "tag": "t"}), ["it has no 'include'"]),
        (json.dumps(ROW | {"prompt": " "}), ["must be words"]),
        (json.dumps(ROW | {"include": []}), ["include must be a list"]),
        (json.dumps(ROW | {"include": [{"count": 1}]}), ["it has no 'class'"]),
        (json.dumps(ROW | {"include": [{"class": "cat", "count": 0}]}), ["count of 1 or more"]),
        (json.dumps(ROW | {"exclude": [{"class": "cat", "count": "two"}]}), ["count of 1 or more"]),
        (json.dumps(ROW | {"include": [CLAUSES[0] | {"position": ["near", 0]}]}), ["left of, right of"]),
        (json.dumps(ROW | {"include": [CLAUSES[0] | {"position": ["above", 1]}]}), ["a clause's number"]),
    ],
)
def test_a_broken_line_is_named(line: str, words: list[str], tmp_path: Path) -> None:
    made = files(tmp_path, json.dumps(ROW) + "\n" + line, json.dumps(ROW | {"prompt": "x"}), "jsonl")
    with pytest.raises(UserError) as caught:
        _ = made.train
    told = str(caught.value)
    assert "\n" not in told and "train.jsonl line 2 is broken" in told, told
    assert all(word in told for word in words), told


def test_an_empty_line_is_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test.txt line 2 is broken: it is empty"):
        _ = files(tmp_path, "a\n", "a\n\nb\n").train


def test_train_and_test_may_not_overlap(tmp_path: Path) -> None:
    """Whatever the case and the spaces; unless they are asked to be left out."""
    with pytest.raises(
        UserError, match=r"2 of 3 prompts of .*train.txt are in .*test.txt too \(first: 'A  cat'\)"
    ):
        _ = files(tmp_path, "A  cat\na dog\na bird", "a cat\na bird").train
    made = files(tmp_path, "A  cat\na dog\na bird", "a cat\na bird", drop_overlap=True)
    assert [prompt.text for prompt in made.train] == ["a dog"]
    with pytest.raises(UserError, match="no prompt of .* is left to train on"):
        _ = files(tmp_path, "a cat", "a cat", drop_overlap=True).train


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("no.txt", None, "no such prompt file"),
        ("prompts.csv", b"a", ".jsonl"),
        ("empty.txt", b"", "holds no prompts"),
        ("latin.txt", "\u00e4".encode("latin1"), "UTF-8"),
    ],
)
def test_a_file_that_is_none(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    made = PromptFiles("never read", str(tmp_path / name), "tag", drop_overlap=False)
    with pytest.raises(UserError) as caught:
        _ = made.train
    assert words in str(caught.value) and name in str(caught.value)
