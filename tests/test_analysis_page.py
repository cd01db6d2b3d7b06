"""The page, the figures and the command line of ``analysis``."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_analysis_report import add_run, report

from ablate.contract.rundir import write_text
from analysis.__main__ import gather, main
from analysis.look import PAPER
from analysis.page import render
from analysis.plot import Sheet, draw, svg_bytes
from analysis.report import figures
from analysis.spec import KEYS, REPORTS, read_spec
from analysis.sweeps import read_sweep


class Fetched(HTMLParser):
    """Everything a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.urls += [
            value or "" for key, value in attrs if key in ("src", "srcset", "href", "data", "action")
        ]


def test_the_page_fetches_nothing_and_escapes_what_it_shows(tmp_path: Path) -> None:
    for seed in range(3):
        add_run(tmp_path, seed=seed)
    made = report(tmp_path)
    page = render(made, figures(made))
    found = Fetched()
    found.feed(page)
    assert found.urls
    assert [url for url in found.urls if not url.startswith(("data:", "#"))] == []
    assert "url(" not in page.split("<main")[0]
    assert "default-src 'none'" in page
    assert "A &lt;test&gt; &amp; more" in page
    assert "test" not in found.tags
    assert all(name in page for name in made.signatures)
    assert page.count("data:image/png") >= 7  # five grids, before and after
    anchors = [url[1:] for url in found.urls if url.startswith("#")]
    assert all(f'id="{name}"' in page for name in anchors)


def test_the_same_runs_give_the_same_bytes_with_their_signatures_inside(tmp_path: Path) -> None:
    for seed in range(3):
        add_run(tmp_path, seed=seed)
    first, second = (figures(report(tmp_path)) for _ in range(2))
    assert first == second
    assert render(report(tmp_path), first) == render(report(tmp_path), second)
    names = report(tmp_path).signatures
    assert all(name in first.svg.decode() for name in names)
    assert b"dc:date" not in first.svg
    assert Image.open(io.BytesIO(first.png)).info["Signatures"].split() == list(names)


def add_sweep(runs: Path, name: str, signatures: list[str]) -> None:
    shared, reason = "policy=shapes", "estimator=trajectory requires 'transition'; choose sampler=sde"
    cells: list[dict[str, Any]] = []
    for seed, known in enumerate(signatures):
        cells.append(
            {"overrides": [shared, "sampler=sde", f"seed={seed}"], "signature": known, "refused": []}
        )
    for seed in range(2):
        overrides = [shared, "sampler=ode", f"seed={seed}"]
        cells.append({"overrides": overrides, "signature": None, "refused": [reason]})
    record = {"name": name, "asked": [f"+sweep={name}"], "cells": cells, "created": 1.8e9}
    write_text(runs / ".sweeps" / f"{name}.json", json.dumps(record))


def test_a_report_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = add_run(tmp_path), add_run(tmp_path, seed=1)
    add_sweep(tmp_path, "demo", [run.name, run.name, "deadbeef"])
    assert (
        main(["report=demo", f"runs={tmp_path}", f"out={tmp_path / 'out'}", "threshold=0.3", "labels={}"])
        == 0
    )
    assert {path.name for path in (tmp_path / "out" / "demo").iterdir()} == {
        "index.html", "curve.svg", "curve.png", "table.md", "table.tex", "table.csv",
        "forwards.svg", "forwards.png", "hours.svg", "hours.png",
    }  # fmt: skip
    page = (tmp_path / "out" / "demo" / "index.html").read_text()
    assert "2 of the 5 cells" in page
    assert "estimator=trajectory requires &#39;transition&#39;; choose sampler=sde" in page
    assert "× 2 seeds" in page
    assert "deadbeef" in page
    assert other.name not in page  # the sweep did not ask for it
    assert "ode takes the strict reward" in capsys.readouterr().out.replace("epg · elbo · ", "")


def test_refusals_are_told_once_for_all_seeds(tmp_path: Path) -> None:
    add_sweep(tmp_path, "demo", ["0" * 8])
    sweep = read_sweep(tmp_path, "demo")
    assert sweep.signatures == ("0" * 8,)
    assert [dict(refusal.cells) for refusal in sweep.refusals] == [{("sampler=ode",): 2}]
    assert sweep.refused == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report=dmo"], "did you mean demo?"),
        (["report=demo"], "no record of a sweep demo; did you mean deno?"),
        (["sweep=deno"], "no run is fit to be shown"),
        (["report=demo", "metrik=strict"], "unknown key metrik; did you mean metric?"),
        (["demo"], "write key=value"),
        (["threshold=0.5"], "which runs?"),
        (["runs=nowhere"], "no run nowhere"),
        (["runs=ALL", "metric=strickt"], "did you mean strict?"),
        (["runs=ALL", "threshold=high"], "is no number"),
        (["runs=ALL", "threshold=.nan"], "is no number"),
        (["runs=ALL", "statistic=median"], "choose mean or iqm"),
        (["runs=ALL", "unfinished=perhaps"], "true or false"),
        (["runs=ALL", "labels={a: b: c}"], "cannot read"),
        (["runs=ALL", "out=FILE"], "mend it and repeat"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_cure(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    add_run(tmp_path)
    add_sweep(tmp_path, "deno", ["deadbeef"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    words = [word.replace("ALL", str(tmp_path)).replace("FILE", str(tmp_path / "file")) for word in arguments]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_help_names_every_key_and_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"{key}=" in text for key in KEYS)
    assert all(path.stem in text for path in REPORTS.glob("*.yaml"))


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_report_can_be_read(path: Path) -> None:
    spec = read_spec(path.stem, {})
    assert spec.sweep
    assert spec.title != path.stem


def test_a_band_is_drawn_from_three_seeds_up(tmp_path: Path) -> None:
    def bands() -> int:
        figure = draw(report(tmp_path).tables, Sheet(0.5, "mean", PAPER))
        return svg_bytes(figure, "test", []).count(b'id="FillBetween')

    for seed in range(2):
        add_run(tmp_path, seed=seed, slope=1.0 + 0.1 * seed)
        add_run(tmp_path, seed=seed, sampler="sde", slope=0.5 + 0.1 * seed)
    assert bands() == 0
    add_run(tmp_path, seed=2, slope=1.2)
    assert bands() == 1


def test_runs_are_named_by_folder_directory_or_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = add_run(tmp_path), add_run(tmp_path, seed=1)
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    both = {run.name, other.name}
    cases = {
        str(tmp_path): both,
        f"{run.name},{other.name}": both,
        run.name: {run.name},
        str(run.root): {run.name},
    }
    for where, names in cases.items():
        _, records, sweep, missing = gather({"runs": where})
        assert ({record.signature for record in records}, sweep, missing) == (names, None, [])
