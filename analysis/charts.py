"""Bars of hours, ratios as a forest, shares of variance: one panel per setting, intervals on every mark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from analysis.look import Theme, style
from analysis.plot import FAINT_DASH, Sheet, dress
from analysis.rows import ArmRow
from analysis.shares import Part
from analysis.variance import SEED

TICKS: Final = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 50.0, 100.0)
Settings = Sequence[Sequence[ArmRow]]


def hours_bars(settings: Settings, sheet: Sheet) -> Figure | None:
    """Mean hours to the threshold, a bar per arm, hollow where seeds never got there. None without one."""
    shown = [[row for row in rows if row.spent is not None] for rows in settings]
    return _panels([rows for rows in shown if rows], sheet, _bars)


def ratio_forest(settings: Settings, sheet: Sheet) -> Figure | None:
    """Hours of every arm over those of the reference, on a logarithmic axis. None where there is no ratio."""
    shown = [[row for row in rows if row.ratio is not None] for rows in settings]
    return _panels([rows for rows in shown if rows], sheet, _forest)


def share_chart(parts: Sequence[Part], sheet: Sheet) -> Figure | None:
    """Shares of variance with their intervals, a panel per outcome. None where nothing was divided."""
    found = [part for part in parts if part.found is not None]
    if not found:
        return None
    lines = max(len(part.found.shares) for part in found if part.found is not None)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9.0}):
        columns = 1 if sheet.narrow else len(found)
        across = 4.3 if sheet.narrow else 9.4
        height = (0.9 + 0.34 * lines) * (len(found) if sheet.narrow else 1)
        figure = Figure(figsize=(across, height), layout="constrained")
        for place, part in enumerate(found, start=1):
            axes = figure.add_subplot(-(-len(found) // columns), columns, place)
            dress(figure, axes, sheet.theme)
            _shares(axes, part, sheet.theme)
    return figure


def _panels(
    settings: Settings, sheet: Sheet, draw: Callable[[Axes, Sequence[ArmRow], Sheet], None]
) -> Figure | None:
    if not settings:
        return None
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9.0 if sheet.narrow else 10.0}):
        height = sum(0.9 + 0.36 * len(rows) for rows in settings)
        figure = Figure(figsize=(4.3 if sheet.narrow else 9.4, height), layout="constrained")
        ratios = [0.9 + 0.36 * len(rows) for rows in settings]
        space = figure.add_gridspec(len(settings), 1, height_ratios=ratios)
        for place, rows in enumerate(settings):
            axes = figure.add_subplot(space[place])
            dress(figure, axes, sheet.theme)
            axes.grid(visible=False, axis="y")
            draw(axes, rows, sheet)
            axes.set_yticks(range(len(rows)), [row.arm.label for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.tick_params(axis="y", colors=sheet.theme.ink, length=0)
    return figure


def _bars(axes: Axes, rows: Sequence[ArmRow], sheet: Sheet) -> None:
    for place, row in enumerate(rows):
        if row.spent is None or row.times is None:
            continue
        color = style(row.arm.place).ink(sheet.theme)
        whole = row.reached == row.arm.n
        axes.barh(
            place, row.spent.value, height=0.62, color=color if whole else "none", alpha=0.6, edgecolor=color
        )
        _whisker(axes, place, row.spent.low, row.spent.high, sheet.theme)
        hours = np.minimum(row.times.hours, row.hours)
        for hour, there in zip(hours, row.times.reached, strict=True):
            marker = "o" if there and hour <= row.hours else ">"
            axes.plot(hour, place, marker, color=sheet.theme.ink, markersize=3.5, alpha=0.8, zorder=4)
    count = {row.arm.label: f"{row.reached} of {row.arm.n}" for row in rows}
    budget = rows[0].hours
    axes.axvline(budget, color=sheet.theme.faint, linewidth=1.0, linestyle=FAINT_DASH)
    axes.set_xlim(0.0, budget * 1.17)
    for place, row in enumerate(rows):
        axes.annotate(
            count[row.arm.label], (budget, place), xytext=(6, 0), textcoords="offset points", va="center",
            color=sheet.theme.faint, fontsize="small",
        )  # fmt: skip
    axes.set_xlabel(f"mean {rows[0].arm.setting.hours_name} to {sheet.threshold:g}, up to the budget")


def _forest(axes: Axes, rows: Sequence[ArmRow], sheet: Sheet) -> None:
    axes.axvline(1.0, color=sheet.theme.faint, linewidth=1.0)
    edges = [1.0]
    for place, row in enumerate(rows):
        if row.ratio is None:
            continue
        look = style(row.arm.place)
        marker = ">" if row.ratio.at_least else look.marker
        _whisker(axes, place, row.ratio.low, row.ratio.high, sheet.theme)
        axes.plot(row.ratio.value, place, marker, color=look.ink(sheet.theme), markersize=8, zorder=4)
        edges += [edge for edge in (row.ratio.value, row.ratio.low, row.ratio.high) if edge is not None]
    axes.set_xscale("log")
    axes.set_xlim(min(edges) / 1.25, max(edges) * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"hours to {sheet.threshold:g}, times those of {rows[0].reference}")


def _shares(axes: Axes, part: Part, theme: Theme) -> None:
    if part.found is None:
        return
    shares = sorted(part.found.shares, key=lambda share: (share.name == SEED, -share.value))
    for place, share in enumerate(shares):
        color = theme.faint if share.name == SEED else style(0).ink(theme)
        axes.barh(place, max(0.0, share.value), height=0.62, color=color, alpha=0.75)
        _whisker(axes, place, max(0.0, share.low), min(1.0, share.high), theme)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(shares)), [share.name for share in shares])
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.set_xlim(0.0, 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(axis="y", colors=theme.ink, length=0)
    axes.set_title(f"variance of {part.outcome}", loc="left", color=theme.ink, fontsize="medium")


def _whisker(axes: Axes, place: int, low: float | None, high: float | None, theme: Theme) -> None:
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=theme.ink, linewidth=1.6, zorder=3)
