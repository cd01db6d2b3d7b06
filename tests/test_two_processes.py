"""Two gloo processes do what one does: same groups, same credit, same update."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from running import finish, outcome, prepare

from ablate.contract import keys
from ablate.contract.rundir import RunDir


def _torchrun(directory: RunDir) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(
        [*command, "-m", "ablate.train", str(directory.root)],
        check=True,
        timeout=240,
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
    )


@pytest.mark.parametrize(
    "arm",
    [
        ("objective=pepg", "estimator=elbo_group", "regularizer=girsanov"),
        ("objective=grpo", "estimator=trajectory", "sampler=sde", "advantage=zscore_global"),
    ],
    ids=["pepg-elbo", "grpo-trajectory"],
)
def test_two_processes_do_what_one_does(arm: tuple[str, ...], tmp_path: Path) -> None:
    length = ("budget.iterations=3", "batch.micro=32", "batch.updates=2", "evaluation.every_iterations=2")
    one = prepare(tmp_path / "one", *arm, *length)
    two = prepare(tmp_path / "two", *arm, *length, "resources.processes=2")
    assert one.name == two.name  # how many processes is no part of what is learned
    finish(one)
    _torchrun(two)
    (alone, rows, evals), (shared, rows_of_two, evals_of_two) = outcome(one), outcome(two)
    assert alone["progress"] == shared["progress"]
    for row, other in zip(rows, rows_of_two, strict=True):
        for key in (
            keys.REWARD_TOTAL,
            keys.ADVANTAGE_ABS_MEAN,
            keys.GROUP_ZERO_STD,
            keys.SAMPLES,
            keys.FORWARDS,
        ):
            assert row[key] == pytest.approx(other[key], rel=1e-6), key
        assert row[keys.GRAD_NORM] == pytest.approx(other[keys.GRAD_NORM], rel=1e-3)
    assert evals[0]["values"] == evals_of_two[0]["values"]
    weights, of_two = alone["learner"]["policy"], shared["learner"]["policy"]
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, of_two[name], rtol=0, atol=2e-5)
