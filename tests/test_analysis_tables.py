"""Tables: Markdown, LaTeX and CSV say the same, in bold only what is sure, published numbers beside ours."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from test_analysis_compare import add_run

from ablate.contract.errors import UserError
from analysis.report import Report, build, table_csv, table_md, table_tex
from analysis.sources.rundir import read_run, run_roots
from analysis.spec import Published, Spec
from analysis.tables import COLUMNS, tex

SPEC = Spec(name="test", title="test", threshold=0.4)


def report(runs: Path, spec: Spec = SPEC) -> Report:
    return build(spec, [read_run(root) for root in run_roots(runs)])


def rows(made: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_csv(made))))


def grid(runs: Path, *, sde: float, seeds: int = 3) -> Report:
    for seed in range(seeds):
        add_run(runs, ends=0.8, seed=seed)
        add_run(runs, ends=sde, seed=seed, sampler="sde")
    return report(runs)


def test_the_best_is_in_bold_where_the_interval_says_so(tmp_path: Path) -> None:
    made = grid(tmp_path, sde=0.5)
    ode, sde = made.panels[0].rows
    assert ode.best and not sde.best
    assert f"**{ode.final.text()}**" in table_md(made)
    assert rf"\textbf{{{ode.final.text()}}}" in table_tex(made)
    assert table_md(made).count("**") == 2
    assert [row["best"] for row in rows(made)] == ["1", "0"]


@pytest.mark.parametrize(("sde", "seeds"), [(0.8, 3), (0.3, 2)])
def test_nothing_is_in_bold_where_it_does_not(tmp_path: Path, sde: float, seeds: int) -> None:
    """Arms that do not differ, and arms of two seeds, of which an interval would say nothing."""
    made = grid(tmp_path, sde=sde, seeds=seeds)
    assert "**" not in table_md(made)
    assert "textbf" not in table_tex(made)


def test_overlapping_intervals_of_paired_arms_may_still_differ(tmp_path: Path) -> None:
    ode, sde = grid(tmp_path, sde=0.6).panels[0].rows
    assert ode.final.low is not None and sde.final.high is not None
    assert ode.final.low < sde.final.high  # over prompts, which are hard for both
    assert ode.best


def test_every_number_of_the_csv_has_its_interval_and_n(tmp_path: Path) -> None:
    made = grid(tmp_path, sde=0.3)
    for line, row in zip(rows(made), made.panels[0].rows, strict=True):
        assert tuple(line) == COLUMNS
        assert (line["n"], line["device"], line["policy"], line["metric"]) == ("3", "cpu", "shapes", "strict")
        assert float(line["reward_low"]) == pytest.approx(row.final.low, rel=1e-5)
        assert float(line["area_low"]) < float(line["area"]) < float(line["area_high"])
        assert float(line["hours_spent_low"]) <= float(line["hours_spent"]) <= float(line["hours_spent_high"])
    ode, sde = rows(made)
    assert (ode["reached"], sde["reached"]) == ("3", "0")
    assert sde["hours_to_threshold"] == "inf"
    assert (ode["ratio_to"], ode["hours_ratio"], sde["ratio_at_least"]) == ("ode", "", "1")
    assert float(sde["hours_spent"]) == pytest.approx(0.3)  # never there: the whole budget
    assert "| at least " in table_md(made)


def test_published_numbers_stand_beside_ours(tmp_path: Path) -> None:
    grid(tmp_path, sde=0.5)
    published = {
        "source": "arXiv:2602.04663, SD3.5-M",
        "rewards": {"ode": 0.96, "nft": 0.95},
        "hours": {"ode": 90},
    }
    made = report(
        tmp_path, Spec(name="test", title="test", threshold=0.4, published=published, reference="sde")
    )
    ode, sde = made.panels[0].rows
    text = table_md(made)
    assert "| reward, final: paper / here |" in text
    assert f"**0.96 / {ode.final.text()}**" in text
    assert f"| – / {sde.final.text()} |" in text
    assert f"| 90 / {ode.threshold_text()} |" in text
    assert "Published and not run here: nft." in text
    assert "arXiv:2602.04663, SD3.5-M" in table_tex(made)
    line = rows(made)[0]
    assert (line["published_reward"], line["published_hours"]) == ("0.96", "90")
    assert line["ratio_to"] == "sde"
    assert float(line["reward_final"]) == pytest.approx(ode.final.value, rel=1e-5)


def test_a_table_for_latex_is_complete_and_escaped(tmp_path: Path) -> None:
    made = grid(tmp_path, sde=0.5)
    text = table_tex(made)
    assert all(rf"\{rule}rule" in text for rule in ("top", "mid", "bottom"))
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    widths = {line.count("&") for line in body.splitlines() if line}
    assert len(widths) == 1
    assert text.isascii()
    assert tex("50% of a_b & {c}") == r"50\% of a\_b \& \{c\}"


@pytest.mark.parametrize(
    ("published", "says"),
    [
        ({"rewards": {"ode": 0.9}}, "give the source"),
        ({"source": "x", "reward": {}}, "unknown key reward"),
        ({"source": "x", "rewards": {"ode": "high"}}, "is no number"),
        ({"source": "x", "hours": [1]}, "must be a mapping"),
    ],
)
def test_published_numbers_have_a_source_and_are_numbers(published: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Spec(name="test", title="test", published=published)


def test_a_report_without_published_numbers_has_none() -> None:
    assert SPEC.paper is None
    assert Published.read({"source": "x"}) == Published("x")
