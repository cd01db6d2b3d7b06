"""Configs and parts for the tests.

A test that asks for ``each_<group>`` runs once per option of that group: a new option is tested by existing.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hypothesis import settings
from omegaconf import OmegaConf

from ablate import build
from ablate.distributed import Distributed
from ablate.parts import Parts
from ablate.protocols import Policy

CONF = Path(__file__).parent.parent / "conf"
GROUPS = ("objective", "estimator", "sampler", "start", "advantage", "regularizer", "snapshots")
Node = dict[str, Any]

torch.set_num_threads(1)
settings.register_profile(
    "ablate", max_examples=30, deadline=None, derandomize=True
)  # a busy core is no failure
settings.load_profile("ablate")


@cache
def _compose(name: str, overrides: tuple[str, ...] = ()) -> Node:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        tree = OmegaConf.to_container(hydra.compose(name, list(overrides)), resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _node(group: str, option: str) -> Node:
    return deepcopy(_compose(f"{group}/{option}")[group])


def _options(group: str) -> list[str]:
    """Names of the group's options that can train."""
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return [name for name in names if "diagnostics" not in _node(group, name).get("requires", ())]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for group in GROUPS:
        if f"each_{group}" in metafunc.fixturenames:
            metafunc.parametrize(f"each_{group}", _options(group))
    if "each_kernel" in metafunc.fixturenames:  # a sampler whose steps have a density
        tags = {name: _node("sampler", name).get("provides", ()) for name in _options("sampler")}
        metafunc.parametrize("each_kernel", [name for name, given in tags.items() if "transition" in given])


@pytest.fixture(scope="session")
def compose() -> Callable[..., Node]:
    """``compose(*overrides)`` -> the resolved config of conf/train.yaml."""
    return lambda *overrides: deepcopy(_compose("train", overrides))


@pytest.fixture(scope="session")
def node() -> Callable[[str, str], Node]:
    """``node(group, option)`` -> the config of one option."""
    return _node


@pytest.fixture(scope="session")
def part() -> Callable[..., Any]:
    """``part(group, option, **fields)`` -> one part, with some fields of its yaml changed."""

    def make(group: str, option: str, **fields: Any) -> Any:
        runtime = {name: fields.pop(name) for name in ("sampler",) if name in fields}
        return build.make(_node(group, option) | fields, **runtime)

    return make


@pytest.fixture(scope="session")
def parts() -> Callable[..., Parts]:
    """``parts(*overrides)`` -> all parts of a run but its networks."""
    return lambda *overrides: build.light(_compose("train", overrides))


@pytest.fixture(scope="session")
def distributed() -> Distributed:
    return Distributed(0)


@pytest.fixture(scope="module")
def policy(distributed: Distributed) -> Policy:
    """mixture2d with its snapshots old and ema, all copies of the base; tests only read it."""
    config = _compose("train")
    return build.policy(config, build.light(config), distributed)
