"""Cells that take the same steps are found without a list of them, and no others are."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TINY, command
from rich.console import Console

from ablate import build
from ablate.equivalences.cells import updates
from ablate.equivalences.compare import Pair, Verdict
from ablate.equivalences.reach import DRAWER, always_together
from ablate.equivalences.report import Report, measure
from ablate.objectives.nft import NFT
from ablate.objectives.par import PAR
from ablate.objectives.velocity_matching import VelocityMatching
from ablate.samplers.dance import DanceSDE
from ablate.types import Evaluation, Feedback, Loss
from runners import equal
from runners.compose import Tree, composing
from runners.plan import Refused, Run, plan_line

SMALL = ("batch.prompts=4", "batch.group_size=8", "batch.micro=32", "sampler.num_steps=4")
SINGLE = (*SMALL, "estimator=elbo_single")


def planned(*overrides: str) -> tuple[list[Run], int]:
    items = plan_line(overrides)
    return [item for item in items if isinstance(item, Run)], sum(isinstance(i, Refused) for i in items)


@cache
def plane() -> Tree:
    with composing() as composer:
        return composer.cell(["policy=mixture2d"]).config


def report(*lines: Sequence[str]) -> Report:
    """What is found among the cells of some grids."""
    runs = [run for line in lines for run in planned(*line)[0]]
    return measure(updates(runs), plane(), 0)


def verdicts(found: Report) -> dict[frozenset[str], str]:
    """The verdict on each pair, the members named by objective, estimator and sampler."""
    return {
        frozenset({name(pair.a.runs[0]), name(pair.b.runs[0])}): pair.verdict.value for pair in found.pairs
    }


def name(run: Run) -> str:
    return " ".join(run.choices[group] for group in ("objective", "estimator", "sampler"))


def one(found: Report) -> Pair:
    (pair,) = found.pairs
    return pair


@pytest.fixture(scope="module")
def table1() -> Report:
    return report(["+sweep=table1"])


def test_table1_has_the_five_and_no_other(table1: Report) -> None:
    assert not table1.unprobed and not list(table1.still())
    same = [pair for pair, verdict in verdicts(table1).items() if verdict != Verdict.ON_POLICY.value]
    assert sorted(map(sorted, same)) == [
        ["epg elbo_ram dpm2", "ram elbo_ram dpm2"],
        ["grpo trajectory dance", "grpo trajectory sde"],
        ["grpo trajectory ddim", "grpo trajectory sde_dpm1"],
        ["par elbo dpm2", "pepg elbo dpm2"],
        ["par elbo sde", "pepg elbo sde"],
    ]
    assert all(pair.on.error < 1e-9 for pair in table1.pairs)


def test_table1_finds_nft_equal_on_policy_only(table1: Report) -> None:
    classes: dict[str, set[str]] = {}
    for pair in table1.pairs:
        if pair.verdict is Verdict.ON_POLICY:
            classes.setdefault(pair.b.label, {name(pair.b.runs[0])}).add(name(pair.a.runs[0]))
            assert pair.off is not None and pair.off.error > 0.01
    (with_nft,) = (members for members in classes.values() if "nft elbo dpm2" in members)
    assert with_nft == {"nft elbo dpm2", "epg elbo dpm2"}  # GRPO's row has a KL coefficient of its own


def test_table1_finds_the_scale_of_ram(table1: Report) -> None:
    (pair,) = (
        pair
        for pair in table1.pairs
        if pair.a.runs[0].choices["regularizer"] == "girsanov"
        and pair.b.runs[0].choices["objective"] == "ram"
    )
    assert pair.on.scale == pytest.approx(0.01)  # EPG at KL coefficient 1/100 is RAM over 100


def test_table1s_flow_sde_has_a_constant_deviation() -> None:
    (cell,) = (run for run in planned("+sweep=table1")[0] if "windows.Fixed" in str(run.config["sampler"]))
    sampler = build.make(cell.config["sampler"])
    std = sampler.coefficients(torch.arange(9)).std
    torch.testing.assert_close(
        std / (sampler.times()[:9] - sampler.times()[1:10]).sqrt(), torch.full_like(std, 0.3)
    )


@pytest.mark.parametrize(
    ("snapshots", "turns", "verdict"),
    [
        ("nft_fast", 1, Verdict.ON_POLICY),
        ("on_policy", 1, Verdict.EQUIVALENT),
        ("on_policy", 2, Verdict.ON_POLICY),
    ],
)
def test_nft_is_epg_where_old_never_parts_from_theta(snapshots: str, turns: int, verdict: Verdict) -> None:
    pair = one(
        report(
            [
                *SINGLE,
                "objective=epg,nft",
                f"snapshots={snapshots}",
                f"batch.updates={turns}",
                "batch.micro=8",
            ]
        )
    )
    assert pair.verdict is verdict and not pair.differ
    assert pair.off is not None and pair.off.exact is (verdict is Verdict.EQUIVALENT)


@pytest.mark.parametrize(
    ("objectives", "estimator"),
    [
        ("epg,grpo", "elbo_single"),
        ("dppo,grpo", "trajectory"),
        ("awm,epg", "trajectory"),
        ("awm,epg", "elbo_single"),
    ],
)
def test_clips_and_gates_are_seen(objectives: str, estimator: str) -> None:
    """Small clips bind on all samples far from old and large ones on none near it, so both are looked at."""
    pair = one(
        report(
            [
                *SMALL,
                f"objective={objectives}",
                f"estimator={estimator}",
                "sampler=sde",
                "sampler.num_steps=5",
            ]
        )
    )
    assert pair.verdict is Verdict.ON_POLICY


def test_an_advantages_unit_is_a_scale() -> None:
    small = [*SINGLE, "objective=epg", "advantage.scale=0.1", "regularizer.kl_coef=0.01"]
    pair = one(report([*SINGLE, "objective=epg", "regularizer.kl_coef=0.1"], small))
    assert pair.verdict is Verdict.EQUIVALENT and pair.on.scale == pytest.approx(0.1)


def test_a_scale_that_moves_is_no_scale() -> None:
    """GDPO divides by the deviation of the iteration's credit: one direction, another length each time."""
    pair = one(report([*SINGLE, "advantage=zscore_group,gdpo", "regularizer=none"]))
    assert pair.verdict is Verdict.ON_POLICY
    assert pair.off is not None and pair.off.exact and pair.off.scale != pytest.approx(pair.on.scale)


def test_no_gradient_equals_nothing() -> None:
    found = report([*SINGLE, "objective=epg,rwr,sft", "advantage.clip=1.0e-60", "regularizer=none"])
    still = {update.runs[0].choices["objective"]: where for update, where in found.still()}
    assert still == {"epg": "on-policy and off-policy", "sft": "on-policy and off-policy"}
    assert not found.pairs


@pytest.mark.parametrize(
    ("other", "differ"),
    [
        ("snapshots=nft_slow", "snapshots.roles.old.decay.slope=0.001|0.01"),
        ("snapshots=crd", "snapshots.roles.behaviour"),
        ("optimizer.lr=5.0e-4", "optimizer.lr=0.0005|0.001"),
        ("budget.iterations=7", "budget.iterations=7|100"),
    ],
)
def test_runs_that_differ_later_are_not_equivalent(other: str, differ: str) -> None:
    found = report([*SINGLE, "objective=pepg"], [*SINGLE, "objective=par", other])
    assert not [pair for pair in found.pairs if pair.verdict is Verdict.EQUIVALENT]
    assert any(differ in told for pair in found.pairs for told in pair.differ)


def test_what_only_fits_memory_is_no_difference() -> None:
    pair = one(
        report([*SINGLE, "objective=pepg"], [*SINGLE, "objective=par", "batch.micro=8", "batch.rollout=8"])
    )
    assert pair.verdict is Verdict.EQUIVALENT


def test_runs_of_one_update_are_probed_once() -> None:
    runs, _ = planned(*SINGLE, "objective=pepg,par", "seed=0,1", "optimizer.lr=1.0e-3,2.0e-3")
    found = updates(runs)
    assert [(update.label, len(update.runs)) for update in found] == [
        ("objective=pepg", 4),
        ("objective=par", 4),
    ]


def test_a_window_that_moves_later_is_seen() -> None:
    fixed = "{_target_:ablate.samplers.windows.Fixed,steps:[0,1]}"
    dwell = "{_target_:ablate.samplers.sliding.Steady,iterations:20}"
    slides = f"{{_target_:ablate.samplers.sliding.Sliding,width:2,shift:1,high:null,wrap:true,dwell:{dwell}}}"
    line = [*SMALL, "estimator=trajectory", "sampler=sde", "sampler.num_steps=6"]
    found = report([*line, f"sampler.window={fixed}"], [*line, f"sampler.window={slides}"])
    pair = one(found)
    assert pair.off is not None and pair.off.exact
    assert pair.verdict is not Verdict.EQUIVALENT


def par_with_a_wrong_sign(self: PAR, ev: Evaluation, fb: Feedback) -> Loss:
    log_ratio = ev.log_prob - ev.log_prob_of["old"]
    return Loss(0.5 * (fb.advantage + log_ratio).square() * log_ratio.detach().exp())


def ram_without_a_stop(self: VelocityMatching, ev: Evaluation, fb: Feedback) -> Loss:
    shift = self.multiplier * fb.advantage[:, None] * (ev.query.target - ev.v)
    return Loss((ev.v - ev.v_of["ref"] - shift).square().mean(1))


def nft_mirrored(self: NFT, ev: Evaluation, fb: Feedback) -> Loss:
    old, q = ev.v_of["old"], 0.5 - fb.advantage / (2 * self.bound)
    better, worse = (ev.query.log_prob(old + sign * (ev.v - old)) for sign in (1, -1))
    return Loss(-(q * better + (1 - q) * worse) * self.bound)


RAM_LINES = (
    [*SMALL, "estimator=elbo_uniform", "objective=ram", "objective.residual=theta", "regularizer=none"],
    [*SMALL, "estimator=elbo_uniform", "objective=epg", "objective.ratio=false", "regularizer.kl_coef=0.01"],
)


@pytest.mark.parametrize(
    ("part", "wrong", "lines"),
    [
        (PAR, par_with_a_wrong_sign, [[*SINGLE, "objective=pepg,par"]]),
        (VelocityMatching, ram_without_a_stop, RAM_LINES),
        (NFT, nft_mirrored, [[*SINGLE, "objective=epg,nft", "regularizer=none"]]),
    ],
)
def test_a_planted_error_ends_an_equivalence(
    part: type, wrong: Callable[..., Any], lines: Sequence[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(report(*lines).pairs) == 1
    monkeypatch.setattr(part, "__call__", wrong)
    assert not report(*lines).pairs


def test_a_planted_error_in_a_kernel_ends_an_equivalence(monkeypatch: pytest.MonkeyPatch) -> None:
    line = [*SMALL, "estimator=trajectory", "sampler.num_steps=3"]
    lines = (
        [*line, "sampler=dance", "sampler.grid._target_=ablate.samplers.grids.Double"],
        [*line, "sampler=sde", "sampler.window={_target_:ablate.samplers.windows.Fixed,steps:[0,1]}"],
    )
    sde, dance = (build.make(planned(*own)[0][0].config["sampler"]) for own in (lines[1], lines[0]))
    factor = dance.coefficients(torch.arange(3)).std / sde.coefficients(torch.arange(3)).std
    levels = ",".join(f"{0.7 * value:.17g}" for value in factor.tolist())
    lines[1].append(f"sampler.noise_level=[{levels}]")
    assert one(report(*lines)).verdict is Verdict.EQUIVALENT
    right = DanceSDE.coefficients

    def flipped(self: DanceSDE, k: torch.Tensor) -> Any:
        c = right(self, k)
        return c._replace(c2=c.c2 * 1.001)

    monkeypatch.setattr(DanceSDE, "coefficients", flipped)
    assert not report(*lines).pairs


@pytest.mark.parametrize(
    ("option", "turns", "iterations", "old", "drawer"),
    [
        ("on_policy", 1, 1000, "theta", "theta"),
        ("on_policy", 2, 1000, "old", "old"),
        ("nft_fast", 1, 1000, "old", "old"),
        ("nft_ocr", 1, 70, "theta", "theta"),
        ("nft_ocr", 1, 1000, "old", "old"),
        ("frozen_old", 1, 1000, "ref", "theta"),
        ("frozen_old", 2, 1000, "ref", DRAWER),
        ("nft_fast", 1, 1, "ref", "ref"),
    ],
)
def test_which_roles_are_always_together(
    part: Callable[..., Any], option: str, turns: int, iterations: int, old: str, drawer: str
) -> None:
    found = always_together(part("snapshots", option), turns, iterations)
    assert (found["old"], found[DRAWER]) == (old, drawer)


def watched(most: int, *overrides: str) -> tuple[equal.Watch, io.StringIO]:
    told = io.StringIO()
    return equal.watch(planned(*overrides)[0], most, Console(file=told, width=200)), told


def test_a_sweep_is_warned(tmp_path: Path) -> None:
    small = (*TINY, *SINGLE, "budget.iterations=1")
    code, out, err = command(tmp_path, "ablate", "-m", *small, "objective=pepg,par")
    assert code == 0, err
    assert "warning: 'objective=par' takes the same steps as 'objective=pepg': run one of them" in out


def test_a_sweep_is_not_searched_for_nothing() -> None:
    for most, line in (
        (0, ("objective=pepg,par",)),
        (40, ("seed=0,1",)),
        (40, ("optimizer.lr=1.0e-3,1.0e-4",)),
    ):
        watch, told = watched(most, *line)
        assert watch.child is None and not told.getvalue()
    watch, told = watched(1, "objective=pepg,par")
    assert watch.child is None
    assert told.getvalue().startswith(
        "2 different updates, more than 1, are not compared; python -m ablate.equ"
    )


def test_command_line(tmp_path: Path) -> None:
    code, out, err = command(
        tmp_path, "ablate.equivalences", *SINGLE, "objective=par,pepg", "advantage=zscore_group,nosuch"
    )
    assert (code, out) == (1, "")
    assert err.startswith("error: advantage=nosuch: no such advantage") and err.count("\n") == 1
    line = ("sampler=ode,sde", "estimator=trajectory", *SMALL, "advantage.clip=-1.0")
    code, out, err = command(tmp_path, "ablate.equivalences", *line)
    assert code == 0, err
    assert "not probed: advantage.clip = -1.0 must be positive" in out and "1 cells refused" in out
