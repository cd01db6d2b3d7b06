"""The preflight ends a run or tells it, agrees over processes, and changes no bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flying import SIZES, Patch, failed, fly, nothing, processes, scores
from running import TINY, config, in_child, outcome, prepare, same, wait

from ablate import train
from ablate.contract.compat import promises
from ablate.contract.rundir import RunDir, read_rows, signature
from ablate.loop import train as run_loop
from ablate.preflight.finding import Finding, absent
from ablate.preflight.preflight import CHECKS, Preflight, _agreed


def test_strict_ends_the_run_with_its_reason(tmp_path: Path, monkeypatch: Patch) -> None:
    scores(monkeypatch, 0.0)
    directory = prepare(tmp_path, *SIZES)
    assert wait(in_child(lambda: train.run(directory))) == 1
    state = directory.read_state()
    assert state["state"] == "failed"
    for word in (
        "FailedPreflight: preflight reward_spread",
        "is 0, it must be",
        "raise batch",
        "preflight=warn",
    ):
        assert word in state["error"]
    assert not json.loads(directory.preflight.read_text())["passed"]
    assert read_rows(directory.metrics) == [] and not directory.checkpoint.exists()


def test_warn_tells_and_goes_on(
    tmp_path: Path, monkeypatch: Patch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the same run directory: it cannot change what is learned."""
    scores(monkeypatch, 0.0)
    strict, directory = prepare(tmp_path, *SIZES), prepare(tmp_path, *SIZES, "preflight=warn")
    assert strict == directory
    record = fly(directory.root, "preflight=warn")
    assert failed(record) == ["reward_spread"] and not record["strict"]
    out, err = capfd.readouterr()
    assert "preflight 8 of 9 checks passed" in out and len(out.splitlines()) == 1
    (line,) = err.splitlines()
    assert "warning: preflight reward_spread" in line and "raise batch" in line
    assert directory.checkpoint.exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ("objective=grpo", "estimator=trajectory", "sampler=sde", "batch.updates=2"),
        ("objective=nft", "policy.tuning=lora", "snapshots=crd"),
    ],
)
def test_it_changes_no_bit(overrides: tuple[str, ...], tmp_path: Path, monkeypatch: Patch) -> None:
    """Weights, optimiser, rows, evaluations and counted forwards are those of a run without."""
    length = (*SIZES, "budget.iterations=2", *overrides)
    checked, bare = prepare(tmp_path / "checked", *length), prepare(tmp_path / "bare", *length)
    assert wait(in_child(lambda: train.run(checked))) == 0
    monkeypatch.setattr(Preflight, "__call__", lambda *args: None)
    assert wait(in_child(lambda: train.run(bare))) == 0
    assert checked.preflight.exists() and not bare.preflight.exists()
    assert same(outcome(checked), outcome(bare))


def test_checks_leave_the_run_as_it_was(tmp_path: Path) -> None:
    lab = train.assemble(RunDir(tmp_path), config(*TINY, *SIZES), processes())
    seen: list[bool] = []

    def compared(check: Callable[..., Finding]) -> Callable[..., Finding]:
        def call(trial: Any) -> Finding:
            before, noise = lab.policy.state_dict(), torch.get_rng_state()
            finding = check(trial)
            seen.append(same(lab.policy.state_dict(), before) and torch.equal(torch.get_rng_state(), noise))
            assert all(parameter.grad is None for parameter in lab.policy.parameters())
            return finding

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablate.preflight.preflight.CHECKS", [compared(check) for check in CHECKS])
        run_loop(replace(lab, evaluator=nothing), None, lambda: False)  # type: ignore[arg-type]
    assert seen == [True] * len(CHECKS)


def test_processes_agree() -> None:
    """A failure on any process is one on all; a number beats none."""
    good, bad = Finding("a", "x", 1.0, "", True, ""), Finding("a", "x", 0.0, "above 0", False, "mend it")

    class Everyone:
        def __init__(self, *others: Finding) -> None:
            self.others = others

        def gather_objects(self, items: list[Any]) -> list[Any]:
            return [*items, *([other] for other in self.others)]

    for mine, others, told in (
        (good, [bad], bad),
        (bad, [good], bad),
        (absent("a", "x"), [good], good),
        (absent("a", "x"), [absent("a", "x")], absent("a", "x")),
    ):
        assert _agreed([mine], Everyone(*others)) == [told]  # type: ignore[arg-type]


def test_what_is_checked_is_no_part_of_what_is_learned() -> None:
    plain = config(*TINY)
    silent = plain | {"advantage": {k: v for k, v in plain["advantage"].items() if k != "promises"}}
    assert signature(plain) == signature(silent) == signature(config(*TINY, "preflight=warn"))
    assert promises(plain) == {"centred"} and promises(config(*TINY, "advantage=binary")) == set()
