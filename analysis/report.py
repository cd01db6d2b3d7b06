"""A report: settings with their tables and findings, what was left out, and the files it is written to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from ablate.contract.errors import UserError
from ablate.contract.rundir import write_text
from analysis.arms import Arm, LeftOut, Setting, evaluated_alike, group, sort_out
from analysis.charts import hours_bars, ratio_forest, share_chart
from analysis.curves import axis_of
from analysis.finding import finding
from analysis.load import Frames, frames
from analysis.look import DARK, LIGHT, PAPER, Theme
from analysis.plot import Sheet, draw, png_bytes, recolour, svg_bytes
from analysis.record import RunRecord
from analysis.rows import ArmRow, arm_rows
from analysis.shares import Part
from analysis.shares import parts as shares
from analysis.spec import Spec
from analysis.sweeps import Sweep
from analysis.tables import csv_text, header, latex, markdown

OLD: Final = 0.1  # of the budget: an evaluation older than this is called out
SEED: Final = 0  # of the bootstrap: the same runs give the same report


@dataclass(frozen=True)
class Panel:
    """One setting; ``rows`` best first.

    Attributes:
        cautions: what a reader must know before comparing rows.   parts: what varies with which choice.
    """

    setting: Setting
    rows: tuple[ArmRow, ...]
    headline: str
    sentences: tuple[str, ...]
    cautions: tuple[str, ...]
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that a page shows; ``missing`` are signatures a sweep asked for that have no directory yet."""

    spec: Spec
    panels: tuple[Panel, ...]
    frames: Frames
    left_out: tuple[LeftOut, ...]
    missing: tuple[str, ...]
    sweep: Sweep | None

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """The runs that the numbers rest on."""
        return tuple(record for panel in self.panels for row in panel.rows for record in row.arm.records)

    @property
    def signatures(self) -> tuple[str, ...]:
        return tuple(sorted(record.signature for record in self.records))

    @property
    def tables(self) -> list[tuple[ArmRow, ...]]:
        return [panel.rows for panel in self.panels]


def build(
    spec: Spec, records: Sequence[RunRecord], *, sweep: Sweep | None = None, missing: Sequence[str] = ()
) -> Report:
    """The report of these runs.

    Raises:
        UserError: no run is fit to be shown.
    """
    used, left_out = sort_out(records, spec)
    if not used:
        raise UserError(_nothing(left_out, missing, spec))
    loaded = frames(used)
    panels = [
        _panel(setting, _rows(arms, spec), spec)
        for setting, arms in group(used, left_out, loaded, spec).items()
    ]
    return Report(spec, tuple(panels), loaded, tuple(left_out), tuple(missing), sweep)


def _rows(arms: Sequence[Arm], spec: Spec) -> list[ArmRow]:
    rng = np.random.default_rng(SEED)
    return arm_rows(arms, spec.threshold, spec.statistic, rng, spec.reference)


def choose_from(spec: Spec, records: Sequence[RunRecord]) -> list[Arm]:
    """The arms of these runs, of all settings.

    Raises:
        UserError: no run is fit to be shown.
    """
    used, left_out = sort_out(records, spec)
    if not used:
        raise UserError(_nothing(left_out, (), spec))
    return [arm for arms in group(used, left_out, frames(used), spec).values() for arm in arms]


def _nothing(left_out: Sequence[LeftOut], missing: Sequence[str], spec: Spec) -> str:
    told = "; ".join(f"{other.record.signature} {other.reason}" for other in left_out[:3])
    more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    cure = "wait for them or look with: python -m runners status"
    if not spec.unfinished and any(other.record.evals for other in left_out):
        cure += ", or add unfinished=true to see them as far as they are"
    runs = len(left_out) + len(missing)
    return f"no run is fit to be shown, of {runs} ({told or 'none has started'}{more}); {cure}"


def _panel(setting: Setting, rows: Sequence[ArmRow], spec: Spec) -> Panel:
    headline, sentences = finding(rows, spec.threshold, spec.statistic, np.random.default_rng(SEED))
    cautions = []
    if keys := evaluated_alike([row.arm for row in rows]):
        names = ", ".join(f"evaluation.{key}" for key in keys)
        cautions.append(f"Arms were not evaluated alike ({names}): their rewards are not one measure.")
    if unfinished := [r.signature for row in rows for r in row.arm.records if r.progress != "done"]:
        cautions.append(f"{len(unfinished)} runs had not finished and count as far as they got.")
    if old := [f"{row.arm.label} ({row.age:.0%})" for row in rows if row.age > OLD]:
        cautions.append(
            f"At the common budget the last evaluation is old for {', '.join(old)}: a reward that was still "
            "rising is understated there. Evaluate more often, or compare arms at their own ends."
        )
    parts = shares(rows, spec.threshold, np.random.default_rng(SEED))
    return Panel(setting, tuple(rows), headline, tuple(sentences), tuple(cautions), parts)


@dataclass(frozen=True)
class Figures:
    """One picture in the forms a page needs: by colour scheme, and narrow for a phone.

    ``others`` are the further pictures of the report by name, those that its runs can fill.
    """

    png: bytes
    svg: bytes
    light: bytes
    dark: bytes
    light_narrow: bytes
    dark_narrow: bytes
    others: Mapping[str, Figures] = field(default_factory=dict)


def figures(report: Report) -> Figures:
    """The same runs give the same bytes."""
    tables = report.tables
    curve = _forms(report, lambda sheet: draw(tables, sheet))
    wanted: dict[str, Callable[[Sheet], Figure | None]] = {
        axis: lambda sheet, axis=axis: draw(tables, replace(sheet, axis=axis))  # type: ignore[misc]
        for axis in ("samples", "forwards")
        if all(np.isfinite(axis_of(c, axis)).all() for rows in tables for row in rows for c in row.arm.curves)
    }
    wanted["hours"] = lambda sheet: hours_bars(tables, sheet)
    wanted["ratios"] = lambda sheet: ratio_forest(tables, sheet)
    for place, panel in enumerate(report.panels):
        name = "shares" if place == 0 else f"shares_{place + 1}"
        wanted[name] = lambda sheet, parts=panel.parts: share_chart(parts, sheet)  # type: ignore[misc]
    drawn = {name: _forms(report, make) for name, make in wanted.items()}
    assert curve is not None, "a report has at least one arm"
    return replace(curve, others={name: forms for name, forms in drawn.items() if forms is not None})


def _forms(report: Report, make: Callable[[Sheet], Figure | None]) -> Figures | None:
    spec = report.spec

    def sheet(theme: Theme, narrow: bool = False) -> Figure | None:
        return make(Sheet(spec.threshold, spec.statistic, theme, narrow))

    paper, wide, narrow = sheet(PAPER), sheet(LIGHT), sheet(LIGHT, narrow=True)
    if paper is None or wide is None or narrow is None:
        return None
    light, light_narrow = (svg_bytes(figure, spec.title, report.signatures) for figure in (wide, narrow))
    return Figures(
        png=png_bytes(paper, spec.title, report.signatures),
        svg=svg_bytes(paper, spec.title, report.signatures),
        light=light,
        dark=recolour(light, LIGHT, DARK),
        light_narrow=light_narrow,
        dark_narrow=recolour(light_narrow, LIGHT, DARK),
    )


def table_csv(report: Report) -> str:
    """All settings in one file, one row per arm."""
    return header() + "".join(csv_text(rows, report.spec) for rows in report.tables)


def table_md(report: Report) -> str:
    """All settings, each with its caption."""
    spec = report.spec
    return f"# {spec.title}\n\n" + "\n".join(markdown(rows, spec) for rows in report.tables)


def table_tex(report: Report) -> str:
    """All settings, each a table of its own."""
    return "\n".join(latex(rows, report.spec) for rows in report.tables)


def write_figures(drawn: Figures, out: Path) -> list[Path]:
    """curve.svg and curve.png, and as much of every other picture."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, forms in {"curve": drawn, **drawn.others}.items():
        for kind, content in (("svg", forms.svg), ("png", forms.png)):
            paths.append(out / f"{name}.{kind}")
            paths[-1].write_bytes(content)
    return paths


def write_tables(report: Report, out: Path) -> list[Path]:
    """table.md, table.tex and table.csv."""
    texts = {"table.md": table_md(report), "table.tex": table_tex(report), "table.csv": table_csv(report)}
    for name, text in texts.items():
        write_text(out / name, text)
    return [out / name for name in texts]
