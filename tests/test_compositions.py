"""Every composition of conf/ is refused with a reason, or runs, with the forwards that its parts declare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from matrix import covering_rows, options
from pieces import network_calls
from running import CONF, TINY

from ablate import build, train
from ablate.contract import compat, keys
from ablate.contract.rundir import RunDir, append_row, read_rows
from ablate.distributed import Distributed
from ablate.estimators.elbo import ELBO
from ablate.key import Key
from ablate.loop import train as run_loop
from ablate.record import Recorder
from ablate.regularizers.sum import Sum
from ablate.regularizers.transition_kl import TransitionKL
from runners.compose import Cell, composing

SIZES = (
    "optimizer.lr=1.0e-5",
    "budget.iterations=2",
    "batch.prompts=2",
    "batch.group_size=4",
    "batch.micro=4",
    "batch.updates=2",
)


@cache
def cell(overrides: tuple[str, ...]) -> Cell:
    with composing() as composer:
        return composer.cell([*TINY, *SIZES, *overrides])


@cache
def processes() -> Distributed:
    return Distributed(gpus=0)


def run_two_iterations(overrides: tuple[str, ...], root: Path) -> tuple[list[dict[str, object]], train.Lab]:
    lab = train.assemble(RunDir(root), cell(overrides).config, processes())
    recorder = Recorder(lab.run, cell(overrides).config)
    assert run_loop(lab, recorder, lambda: False) == "done"
    return read_rows(lab.run.metrics), lab


def declared_forwards(lab: train.Lab) -> int:
    """Per iteration: one forward a step; per query, theta and every declared role not known."""
    parts, samples = lab.parts, lab.batch.prompts * lab.batch.group_size
    uses = parts.objective.uses | parts.regularizer.uses
    free = {f"log_prob:{parts.snapshots.rollout}"} if lab.learner.keep != "x0" else set()
    networks = 1 + len({use.split(":")[1] for use in uses - free})
    steps, estimator = parts.sampler.num_steps, parts.estimator
    if isinstance(estimator, ELBO):
        queries = estimator.times(parts.sampler.times(), Key().rows(torch.arange(1)))[0].shape[1]
    else:
        queries = steps - (lab.learner.keep == "transitions")  # every transition but the last, or every state
    return samples * (network_calls(parts.sampler) + networks * queries)


@pytest.mark.parametrize("overrides", covering_rows(), ids=lambda o: "-".join(x.split("=")[1] for x in o))
def test_refused_or_runs(overrides: tuple[str, ...], tmp_path: Path) -> None:
    reasons = compat.problems(cell(overrides).config, cell(overrides).choices, CONF)
    if reasons:
        assert all("requires" in reason and "choose" in reason for reason in reasons)
        return
    rows, lab = run_two_iterations(overrides, tmp_path)
    assert [row[keys.ITERATION] for row in rows] == [1, 2]
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    assert rows[-1][keys.FORWARDS] == 2 * declared_forwards(lab)


@pytest.mark.parametrize("estimator", options("estimator"))
@pytest.mark.parametrize("sampler", options("sampler"))
def test_tags_and_types_refuse_the_same(estimator: str, sampler: str) -> None:
    """The planner reads tags and the build reads types; a tag that lies, or is missing, fails here."""
    made = cell((f"estimator={estimator}", f"sampler={sampler}"))
    refused = bool(compat.problems(made.config, made.choices, CONF))
    try:
        queries = build.light(made.config).estimator.queries
    except (ValueError, TypeError, AttributeError):
        queries = None
    assert refused == (queries is None)


def test_a_missing_tag_is_noticed(tmp_path: Path) -> None:
    """The matrix above can fail: without its tag, trajectory x ode reaches the build, which refuses it."""
    made = cell(("estimator=trajectory", "sampler=ode"))
    untagged = made.config | {
        "estimator": {k: v for k, v in made.config["estimator"].items() if k != "requires"}
    }
    assert compat.problems(made.config, made.choices, CONF)
    assert not compat.problems(untagged, made.choices, CONF)
    with pytest.raises(ValueError, match="density"):
        build.light(untagged)


def test_a_part_within_a_part_says_what_it_requires() -> None:
    """A term of a sum is refused as it would be alone, and built without its tags where it fits."""
    alone = cell(("regularizer=transition_kl", "estimator=trajectory", "sampler=sde"))
    term = alone.config["regularizer"]
    assert term["requires"] == ["scored_step"]
    added = cell(("regularizer=sum",))
    terms = added.config["regularizer"]["terms"] | {"step": term}
    regularizer = added.config["regularizer"] | {"terms": terms}
    (reason,) = compat.problems(added.config | {"regularizer": regularizer}, added.choices, CONF)
    assert "regularizer=sum requires 'scored_step'" in reason and "estimator=trajectory" in reason
    fitting = alone.config | {"regularizer": regularizer}
    assert not compat.problems(fitting, alone.choices, CONF)
    built = build.light(fitting).regularizer
    assert isinstance(built, Sum) and isinstance(built.terms["step"], TransitionKL)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("batch.micro=3",), ["batch.micro = 3", "4"]),
        (("batch.group_size=1",), ["group_size = 1"]),
        (("batch.updates=3",), ["batch.updates = 3"]),
        (("resources.processes=3",), ["batch.prompts = 2", "resources.processes = 3"]),
        (("budget.iterations=null",), ["budget"]),
        (("budget.samples=-4",), ["budget.samples = -4", "positive"]),
        (("objective=grpo", "advantage=centered"), ["grpo", "standardized", "centered", "zscore"]),
        (("estimator=trajectory", "sampler=ode"), ["trajectory", "ode", "sampler=sde"]),
        (("estimator=exact",), ["exact", "diagnostics"]),
    ],
)
def test_sizes_and_tags_are_refused_with_value_rule_and_cure(
    overrides: tuple[str, ...], words: Sequence[str]
) -> None:
    made = cell(overrides)
    reason = compat.problems(made.config, made.choices, CONF)[0]
    assert "\n" not in reason
    assert all(word in reason for word in words), reason


def test_rows_are_written_once(tmp_path: Path) -> None:
    rows, lab = run_two_iterations(("objective=epg",), tmp_path)
    append_row(lab.run.metrics, {"iteration": 3})
    assert len(read_rows(lab.run.metrics)) == len(rows) + 1
