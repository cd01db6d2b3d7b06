"""Runs up to their preflight, for its tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from running import TINY, config
from torch import Tensor

from ablate import train
from ablate.contract.errors import FailedPreflight
from ablate.contract.rundir import RunDir
from ablate.distributed import Distributed
from ablate.loop import Lab
from ablate.loop import train as run_loop
from ablate.rewards.mixture2d import Mixture2DReward

SIZES = (
    *("batch.prompts=4", "batch.group_size=8", "batch.micro=8", "budget.iterations=1"),
    *("optimizer.lr=1.0e-5", "evaluation.sampler.num_steps=2"),
)
SMALL_SHAPES = ("policy=shapes", "batch.prompts=2", "batch.group_size=4", "batch.micro=4", "batch.rollout=4")
Patch = pytest.MonkeyPatch
Change = Callable[[Lab], Lab]


@cache
def processes() -> Distributed:
    return Distributed(gpus=0)


def unchanged(lab: Lab) -> Lab:
    return lab


def fly(root: Path, *overrides: str, change: Change = unchanged) -> dict[str, Any]:
    """preflight.json of a run that trains one iteration, or none; FailedPreflight is its caller's."""
    lab = change(train.assemble(RunDir(root), config(*TINY, *SIZES, *overrides), processes()))
    with suppress(FailedPreflight):
        run_loop(replace(lab, evaluator=nothing), None, lambda: False)  # type: ignore[arg-type]
    return dict(json.loads(lab.run.preflight.read_text()))


class _Nothing:
    """An evaluator that looks at nothing."""

    class settings:
        @staticmethod
        def due(*args: object) -> bool:
            return False

    def __call__(self, *args: object) -> dict[str, object]:
        return {}


nothing = _Nothing()


def failed(record: Mapping[str, Any]) -> list[str]:
    assert record["passed"] == all(check["ok"] for check in record["checks"])
    assert all(check["cure"] for check in record["checks"] if not check["ok"])
    return [check["name"] for check in record["checks"] if not check["ok"]]


def looked_at(record: Mapping[str, Any]) -> set[str]:
    return {check["name"] for check in record["checks"] if check["number"] is not None}


def scores(patch: Patch, value: float) -> None:
    def call(self: Mixture2DReward, images: Tensor, prompts: object) -> dict[str, Tensor]:
        return {"near": torch.full((len(images),), value)}

    patch.setattr(Mixture2DReward, "__call__", call)
