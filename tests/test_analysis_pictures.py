"""Bars, forests and shares: what is drawn, what stands beside it, and what is not drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_analysis_compare import add_run
from test_analysis_tables import report

from analysis.charts import hours_bars, ratio_forest, share_chart
from analysis.look import DARK, LIGHT, PAPER
from analysis.page import render
from analysis.plot import Sheet, recolour
from analysis.report import figures
from analysis.shares import parts, sentence
from analysis.spec import Spec

SHEET = Sheet(0.4, "mean", PAPER)


def grid(runs: Path, seeds: int = 3) -> None:
    for seed in range(seeds):
        add_run(runs, ends=0.8, seed=seed)
        add_run(runs, ends=0.3, seed=seed, sampler="sde")


def test_every_picture_is_on_the_page_and_every_arm_leads_to_its_config(tmp_path: Path) -> None:
    grid(tmp_path)
    made = report(tmp_path)
    drawn = figures(made)
    assert set(drawn.others) == {"samples", "forwards", "hours", "ratios", "shares"}
    page = render(made, drawn)
    for name in ("hours", "shares", "curve"):
        assert f'id="{name}"' in page
    for place in (0, 1):
        assert f'href="#config-0-{place}"' in page
        assert f'id="config-0-{place}"' in page
    assert page.count('type="radio"') == 3
    assert all(name in drawn.others["hours"].svg.decode() for name in made.signatures)


def test_bars_are_as_long_as_the_mean_hours_and_hollow_where_seeds_never_arrived(tmp_path: Path) -> None:
    grid(tmp_path)
    (rows,) = report(tmp_path).tables
    figure = hours_bars([rows], SHEET)
    assert figure is not None
    ode, sde = figure.axes[0].patches
    assert [row.arm.label for row in rows] == ["ode", "sde"]
    assert rows[0].spent is not None
    assert ode.get_width() == pytest.approx(rows[0].spent.value)
    assert sde.get_width() == pytest.approx(0.3)
    assert ode.get_fill() or ode.get_facecolor()[3] > 0.0
    assert sde.get_facecolor()[3] == 0.0
    assert {text.get_text() for text in figure.axes[0].texts} == {"3 of 3", "0 of 3"}


def test_a_forest_has_every_arm_but_the_reference(tmp_path: Path) -> None:
    grid(tmp_path)
    figure = ratio_forest(report(tmp_path).tables, SHEET)
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["sde"]
    assert figure.axes[0].get_xlabel() == "hours to 0.4, times those of ode"


def test_without_a_threshold_there_are_no_hours_and_with_one_arm_no_shares(tmp_path: Path) -> None:
    add_run(tmp_path, ends=0.8)
    made = report(tmp_path, Spec(name="test", title="test"))
    assert hours_bars(made.tables, Sheet(None, "mean", PAPER)) is None
    assert ratio_forest(made.tables, SHEET) is None
    assert made.panels[0].parts == ()
    assert share_chart((), SHEET) is None


def test_shares_say_what_they_rest_on_or_why_there_are_none(tmp_path: Path) -> None:
    grid(tmp_path)
    panel = report(tmp_path).panels[0]
    reward, hours = panel.parts
    assert reward.found is not None and hours.found is not None
    assert [share.name for share in reward.found.shares] == ["sampler", "seed"]
    assert reward.found.shares[0].value > 0.9
    assert sentence(reward, panel.setting).endswith("(ω² of a balanced analysis of variance; n = 6).")
    assert hours.note == "3 of 6 seeds did not get there and count with the whole budget"
    lone = report(tmp_path).panels[0].rows
    single = [row for row in lone if row.arm.label == "ode"]
    assert parts(single, 0.4, np.random.default_rng(0)) == ()


def test_one_seed_per_cell_tells_nothing_of_chance(tmp_path: Path) -> None:
    grid(tmp_path, seeds=1)
    panel = report(tmp_path).panels[0]
    assert [part.found for part in panel.parts] == [None, None]
    assert "run more seeds" in sentence(panel.parts[0], panel.setting)
    assert "shares" not in figures(report(tmp_path)).others


def test_a_drawing_changes_its_theme_and_nothing_else() -> None:
    svg = f'<path style="stroke: {LIGHT.ink}"/><path style="stroke: #0072b2"/>'.encode()
    assert recolour(svg, LIGHT, DARK) == svg.replace(LIGHT.ink.encode(), DARK.ink.encode())
