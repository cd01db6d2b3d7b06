"""Reward against what was spent: every seed thin, the mean thick, an interval from three seeds up."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analysis.arms import Arm
from analysis.curves import along, axis_of, shared_grid
from analysis.labels import AXES
from analysis.look import PALETTE, Theme, style
from analysis.rows import ArmRow
from analysis.stats import INTERVAL_FROM, STATISTICS, studentized_ci

Place = tuple[float, str]  # a coordinate and its system
PART: Final = "axes fraction"
FAINT_DASH: Final = (0, (2, 3))


@dataclass(frozen=True)
class Sheet:
    """What all panels of a figure share: ``narrow`` is for a phone; ``axis`` hours, samples or forwards."""

    threshold: float | None
    statistic: str
    theme: Theme
    narrow: bool = False
    axis: str = "hours"


def draw(settings: Sequence[Sequence[ArmRow]], sheet: Sheet) -> Figure:
    """A panel per setting, never two in one: their hours or rewards are not the same unit.

    Args:
        settings: the rows of each setting, in the order of the table, which is that of the legend.
    """
    panels = [facet for rows in settings for facet in _facets(rows)]
    faceted, most = len(panels) > len(settings), max(len(rows) for _, rows in panels)
    columns = 2 if faceted and not sheet.narrow else 1
    below = sheet.narrow or faceted  # where the legend stands
    lines = -(-len(panels) // columns)
    height = 3.3 + 0.24 * most if below else max(3.9, 0.36 * most + 0.6)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9.0 if below else 10.0}):
        figure = Figure(figsize=(4.3 if sheet.narrow else 9.4, height * lines), layout="constrained")
        first: dict[object, Axes] = {}
        for place, (title, rows) in enumerate(panels, start=1):
            shared = first.get(rows[0].arm.setting)
            axes = figure.add_subplot(lines, columns, place, sharex=shared, sharey=shared)
            first.setdefault(rows[0].arm.setting, axes)
            dress(figure, axes, sheet.theme)
            _panel(axes, title, rows, sheet)
            _legend(axes, sheet.theme, below=below)
    return figure


def _facets(rows: Sequence[ArmRow]) -> list[tuple[str, Sequence[ArmRow]]]:
    """More arms than colours: one panel for each option of the first axis on which they differ."""
    for axis in AXES:
        options = sorted({row.option(axis) for row in rows})
        if len(rows) > len(PALETTE) and len(options) > 1:
            return [(f"{axis} {name}", [row for row in rows if row.option(axis) == name]) for name in options]
    return [("", rows)]


def dress(figure: Figure, axes: Axes, theme: Theme) -> None:
    """Colours, grid and spines of one panel."""
    figure.set_facecolor(theme.background)
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(color=theme.grid, linewidth=0.7)
    axes.tick_params(colors=theme.faint)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.ink)


def _panel(axes: Axes, title: str, rows: Sequence[ArmRow], sheet: Sheet) -> None:
    setting, faint = rows[0].arm.setting, sheet.theme.faint
    base = float(np.mean([row.initial.value for row in rows]))
    axes.axhline(base, color=faint, linewidth=1.0, zorder=1)
    _note(axes, "before training", ((1.0, PART), (base, "data")), (-2, -3), sheet.theme)
    if sheet.threshold is not None:
        axes.axhline(sheet.threshold, color=faint, linewidth=1.0, linestyle=FAINT_DASH, zorder=1)
        _note(
            axes,
            f"threshold {sheet.threshold:g}",
            ((0.0, PART), (sheet.threshold, "data")),
            (4, 3),
            sheet.theme,
        )
    if sheet.axis == "hours" and any(row.runs_on for row in rows):
        axes.axvline(rows[0].hours, color=faint, linewidth=1.0, linestyle=FAINT_DASH, zorder=1)
        _note(axes, "compared here", ((rows[0].hours, "data"), (1.0, PART)), (4, -2), sheet.theme)
    for row in rows:
        _arm(axes, row.arm, sheet)
    axes.margins(y=0.09)  # room for the note below the level line
    axes.set_xlim(left=0.0)
    names = {
        "hours": setting.hours_name,
        "samples": "training samples",
        "forwards": "forwards of the network",
    }
    axes.set_xlabel(names[sheet.axis])
    axes.set_ylabel(f"{setting.metric} reward, evaluation prompts")
    axes.set_title(title, loc="left", color=sheet.theme.ink, fontsize="medium", fontweight="bold")


def _legend(axes: Axes, theme: Theme, *, below: bool) -> None:
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.12, -0.16) if below else (1.0, 1.02),
        handlelength=3.4,
        labelspacing=0.5 if below else 0.7,
        borderaxespad=0.3,
        frameon=False,
        labelcolor=theme.ink,
    )


def _note(axes: Axes, text: str, at: tuple[Place, Place], shift: tuple[int, int], theme: Theme) -> None:
    """Text beside a line; ``shift`` in points, its signs say on which side."""
    axes.annotate(
        text,
        (at[0][0], at[1][0]),
        xycoords=(at[0][1], at[1][1]),
        xytext=shift,
        textcoords="offset points",
        ha="left" if shift[0] > 0 else "right",
        va="bottom" if shift[1] > 0 else "top",
        fontsize="small",
        color=theme.faint,
        zorder=6,
        path_effects=[withStroke(linewidth=3.0, foreground=theme.halo)],
    )


def _arm(axes: Axes, arm: Arm, sheet: Sheet) -> None:
    look, of = style(arm.place), STATISTICS[sheet.statistic]
    color = look.ink(sheet.theme)
    if arm.n > 1:
        for curve in arm.curves:
            axes.plot(
                axis_of(curve, sheet.axis), curve.value, color=color, linewidth=0.7, alpha=0.45, zorder=2
            )
    grid = shared_grid(arm.curves)
    values = arm.values(grid)
    if sheet.axis != "hours":
        grid, values = along(arm.curves, sheet.axis)
    axes.plot(
        grid, of(values), color=color, linewidth=2.3, linestyle=look.dash, marker=look.marker, markersize=5.5,
        markeredgewidth=0.8,
        markeredgecolor=sheet.theme.halo, label=f"{arm.label}  (n = {arm.n})", zorder=4,
    )  # fmt: skip
    if arm.n >= INTERVAL_FROM:
        low, high = studentized_ci(values, of, np.random.default_rng(0))
        axes.fill_between(grid, low, high, color=color, alpha=0.16, linewidth=0.0, zorder=3)


def svg_bytes(figure: Figure, title: str, signatures: Sequence[str]) -> bytes:
    """The same bytes for the same runs: fixed hash salt, no date; the runs' signatures in its metadata."""
    metadata = {"Date": None, "Title": title, "Keywords": list(signatures)}
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "ablate"}):
        figure.savefig(out, format="svg", metadata=metadata)
    return out.getvalue()


def recolour(svg: bytes, given: Theme, wanted: Theme) -> bytes:
    """A drawing in another theme; drawing it again would take a second, and there are many."""
    for name in ("ink", "faint", "grid", "halo"):
        svg = svg.replace(getattr(given, name).encode(), getattr(wanted, name).encode())
    return svg


def png_bytes(figure: Figure, title: str, signatures: Sequence[str]) -> bytes:
    """A bitmap at 200 dots per inch, signatures in its metadata."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=200, metadata={"Title": title, "Signatures": " ".join(signatures)})
    return out.getvalue()
