"""The command line: a mistake costs a second and one line; what is done is not done again."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from commands import TINY, command, finish, runs, start, until

from ablate.contract.rundir import read_rows
from runners.plan import Run, plan


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("objective=epg", "estimator=trajectory", "sampler=ode"),
            ["estimator=trajectory", "sampler=ode", "choose", "sampler=sde"],
        ),
        (("objectve=epg",), ["did you mean 'objective'"]),
        (("-m", "objective=egp,epg"), ["did you mean 'epg'"]),
        (("-m", "seed=0,1", "batch.prompts=8,ten"), ["whole number"]),
        (("-m", "seed=0,", "1"), ["cannot read 'seed=0,'"]),
        (("--cfg", "job", "batch.promts=3"), ["did you mean 'batch.prompts'"]),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    words: tuple[str, ...], told: list[str], tmp_path: Path
) -> None:
    before = time.monotonic()
    code, out, err = command(tmp_path, "ablate", *words)
    assert time.monotonic() - before < 10  # the bar is 3 s on an idle core; torch alone would take longer
    assert code == 1 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ") and all(word in line for word in told), line
    assert runs(tmp_path) == []


def test_help_names_every_axis_and_option(tmp_path: Path) -> None:
    code, out, _ = command(tmp_path, "ablate", "--help")
    assert code == 0
    for word in (
        "policy=mixture2d",
        "policy=shapes",
        "+sweep=demo",
        "python -m runners",
        "grpo",
        "trajectory",
        "dpm2",
    ):
        assert word in out


def test_hydra_still_shows_its_config(tmp_path: Path) -> None:
    code, out, _ = command(tmp_path, "ablate", "--cfg", "job", "--package", "objective", "objective=pepg")
    assert code == 0 and "ablate.objectives.pepg.PEPG" in out


def test_one_run_from_start_to_done(tmp_path: Path) -> None:
    line = (*TINY, "budget.iterations=3")
    code, out, err = command(tmp_path, "ablate", *line)
    assert code == 0, err
    (directory,) = runs(tmp_path)
    assert directory.name in out and "done at iteration 3" in out
    assert [row["iteration"] for row in read_rows(directory.metrics)] == [1, 2, 3]
    assert directory.read_config()["choices"]["objective"] == "epg"
    assert directory.overrides.read_text().splitlines() == [" ".join(line)]
    assert list((tmp_path / "runs" / ".hydra").iterdir()) == []

    rows = directory.metrics.read_bytes()
    code, out, _ = command(tmp_path, "ablate", *line, "objective=epg")
    assert code == 0 and "done already" in out and directory.metrics.read_bytes() == rows
    assert len(directory.overrides.read_text().splitlines()) == 2

    code, out, _ = command(tmp_path, "runners", "status")
    assert code == 0
    row = next(text.split() for text in out.splitlines() if text.startswith(directory.name))
    assert row[1:8] == ["done", "epg", "elbo", "ode", "mixture2d", "0", "3/3"]

    code, _, err = command(tmp_path, "runners", "cancel", directory.name)
    assert code == 1 and "it is done" in err
    code, _, err = command(tmp_path, "runners", "cancel", "nonsense")
    assert code == 1 and "no run 'nonsense'" in err


def test_a_live_run_is_left_alone_and_ctrl_c_saves_it(tmp_path: Path) -> None:
    line = (*TINY, "budget.iterations=100000")
    trainer = start(tmp_path, "ablate", *line)
    try:
        until(lambda: any(directory.metrics.exists() for directory in runs(tmp_path)))
        (directory,) = runs(tmp_path)
        code, _, err = command(tmp_path, "ablate", *line)
        (told,) = err.splitlines()
        assert code == 1 and f"pid {trainer.pid}" in told and f"runners cancel {directory.name}" in told
        trainer.send_signal(signal.SIGINT)
        code, out, err = finish(trainer)
    finally:
        trainer.kill()
    assert (
        code == 1 and err.splitlines()[-1] == "error: stopped before it was done; repeat the command to go on"
    )
    assert directory.read_state()["state"] == "stopped" and directory.checkpoint.exists()


def test_a_failure_of_the_trainer_is_one_line(tmp_path: Path) -> None:
    code, _, err = command(tmp_path, "ablate", *TINY, "sampler=sde", "sampler.noise_level=-1.0")
    (line,) = err.splitlines()
    assert code == 1 and "noise_level = -1.0" in line
    (directory,) = runs(tmp_path)
    assert directory.read_state()["state"] == "failed"


def test_dry_run_through_both_doors(tmp_path: Path) -> None:
    code, out, err = command(
        tmp_path,
        "runners",
        "plan",
        "-m",
        "hydra/launcher=local",
        "estimator=elbo,trajectory",
        "sampler=ode,sde",
    )
    assert code == 0, err
    for item in plan([["estimator=elbo", "sampler=ode"], ["estimator=trajectory", "sampler=sde"]]):
        assert isinstance(item, Run) and item.signature in out
    assert "3 runs: 3 start" in out and "1 refused" in out and "requires 'transition'" in out
    assert runs(tmp_path) == []
    code, _, err = command(tmp_path, "runners", "plan", "objectve=epg")
    assert code == 1 and err.splitlines() == [
        "error: objectve=epg: no key or group 'objectve'; did you mean 'objective'?"
    ]
