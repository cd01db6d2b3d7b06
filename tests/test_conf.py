"""conf/ follows the code: the folder is the registry, so it must not lie."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import CONF

from ablate.contract.compat import TAGS

ROOT = CONF.parent
PACKAGES = {
    "policy": "policies",
    **{name: name for name in ("prompts", "snapshots", "preflight")},
}  # whose plural is not an s
PARTS = sorted(
    path
    for group in CONF.iterdir()
    if group.is_dir() and (ROOT / "ablate" / PACKAGES.get(group.name, f"{group.name}s")).is_dir()
    for path in group.glob("*.yaml")
)


def targets(node: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)


def load(path: Path) -> dict[str, Any]:
    node = yaml.safe_load(path.read_text())
    assert isinstance(node, dict)
    return node


def resolve(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", PARTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_target_lies_in_the_groups_package(path: Path) -> None:
    package = PACKAGES.get(path.parent.name, f"{path.parent.name}s")
    assert load(path)["_target_"].startswith(f"ablate.{package}.")


@pytest.mark.parametrize("path", PARTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_fields_are_the_constructors_and_all_are_spelled_out(path: Path) -> None:
    """A run's config is complete: no field takes a default that the config does not show."""
    for node in targets(load(path)):
        made = resolve(node["_target_"])
        if not inspect.isclass(made):
            continue
        names = set(inspect.signature(made).parameters)
        given = set(node) - {"_target_", *TAGS}
        assert given <= names, f"{node['_target_']} has no field {given - names}"
        if dataclasses.is_dataclass(made):
            runtime = {"sampler"} if path.parent.name == "estimator" else set()
            hidden = {f.name for f in dataclasses.fields(made) if f.init} - given - runtime
            assert hidden <= {"source"}, f"{path}: spell out {hidden}"


@pytest.mark.parametrize("path", PARTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_class_says_what_it_computes(path: Path) -> None:
    made = resolve(load(path)["_target_"])
    assert inspect.getdoc(made), f"{made} has no docstring"
    assert inspect.getdoc(inspect.getmodule(made)), f"{made.__module__} has no docstring"


def test_no_name_is_switched_on_and_no_file_grows() -> None:
    """Files below 300 lines; no `== "epg"` on any option of any group."""
    options = {path.stem for path in PARTS} - {"none", "default"}
    for package in ("ablate", "runners", "analysis"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert text.count("\n") <= 300, f"{path} has {text.count(chr(10))} lines"
            for name in options:
                for quote in "\"'":
                    assert f"== {quote}{name}{quote}" not in text, f"{path} switches on {name}"


def test_functions_are_short() -> None:
    import ast

    for package in ("ablate", "runners", "analysis"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    length = (node.end_lineno or 0) - node.lineno + 1
                    assert length <= 60, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_documents_name_files_and_options_that_exist() -> None:
    import re

    papers = (ROOT / "docs" / "papers.md").read_text()
    for file in set(re.findall(r"`(ablate/[a-z0-9_/]+\.py)`", papers)):
        assert (ROOT / file).exists(), file
    for option in set(
        re.findall(r"`((?:objective|estimator|sampler|start|advantage|regularizer|snapshots)/\w+)`", papers)
    ):
        assert (CONF / f"{option}.yaml").exists(), option
