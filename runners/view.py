"""How plans and runs look on a terminal. No torch."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ablate.contract import files, keys
from ablate.contract.rundir import Row, RunDir, last_row
from runners.forecast import Forecast, look_back
from runners.plan import Overrides, Refused, Run
from runners.submit import Fate, fate

PLANNED = ("run", "cell", "on submission", "device_h", "also asked as")
WIDE = 200  # columns where nobody looks: a log keeps whole lines
STYLES = {
    "done": "green",
    "failed": "red",
    "dead": "red",
    "stopped": "magenta",
    "running": "cyan",
    "live": "cyan",
    "refused": "yellow",
}


def console() -> Console:
    """Standard output, as wide as the terminal, or wide where it goes to a file."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Rows of text; the words for states are coloured."""
    view = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column in ("iteration", "reward", "device_h", "eta", "idle")
        view.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        view.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return view


def labels(items: Sequence[Run | Refused]) -> dict[Overrides, str]:
    """Each cell by the overrides that are not common to all; the whole of it when it is alone."""
    cells = [item.overrides for item in items]
    common = set(cells[0]).intersection(*cells) if len(cells) > 1 else set()
    told = ([override for override in cell if override not in common] for cell in cells)
    return {cell: " ".join(words) or "(default)" for cell, words in zip(cells, told, strict=True)}


def show_plan(items: Sequence[Run | Refused]) -> Group:
    """The table of runs, and the table of refusals with every reason."""
    names = labels(items)
    runs = [item for item in items if isinstance(item, Run)]
    refused = [item for item in items if isinstance(item, Refused)]
    needed = _needed(runs)
    listed = [
        (run.signature, names[run.overrides], fate(run).value, hours, _aliases(run))
        for run, hours in zip(runs, needed, strict=True)
    ]
    reasons = [(names[item.overrides], "refused", "; ".join(item.reasons)) for item in refused]
    parts = []
    if listed:
        counts = Counter(fate(run).value for run in runs)
        title = ", ".join(f"{number} {word}" for word, number in counts.items())
        parts.append(table(f"{len(listed)} runs: {title}", PLANNED, listed))
    if reasons:
        parts.append(table(f"{len(reasons)} refused", ("cell", "", "reason"), reasons))
    return Group(*parts)


def lacking(items: Sequence[Run | Refused]) -> list[str]:
    """What this machine does not have of the files that the runs left to do would read, each said once."""
    runs = [item for item in items if isinstance(item, Run) and fate(item).starts]
    told = dict.fromkeys(problem for run in runs for problem in files.missing(run.config))
    return [f"cannot start on this machine: {problem}" for problem in told]


def _needed(runs: Sequence[Run]) -> list[str]:
    """Predicted device-hours of what would start: "~" from other arms, "?" unknown, "-" nothing to do."""
    told = look_back(runs[0].directory.root.parent) if runs else Forecast()
    texts = []
    for run in runs:
        hours, measured = told.hours(run) if fate(run).starts else (0.0, True)
        number = "?" if hours is None else f"{'' if measured else '~'}{hours:.3g}"
        texts.append(number if fate(run).starts else "-")
    return texts


def _aliases(run: Run) -> str:
    return "; ".join(" ".join(word for word in name if word not in run.overrides) for name in run.asked[1:])


def numbers(directory: RunDir, budget: Mapping[str, object]) -> tuple[str, str, str]:
    """Iteration of budget, reward and device-hours of the last row as text; '-' before the first."""
    row, total = last_row(directory.metrics), budget.get("iterations")
    iteration = row.get(keys.ITERATION)
    progress = "-" if iteration is None else f"{iteration}/{total}" if total else str(iteration)
    return progress, _number(row.get(keys.REWARD_TOTAL), "{:.4f}"), _number(row.get(keys.GPU_HOURS), "{:.3g}")


def _number(value: object, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else "-"


def duration(seconds: object) -> str:
    """75 -> '1m15s'; '-' when unknown."""
    if not isinstance(seconds, int | float):
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def idle(directory: RunDir) -> str:
    """Time since the last row, '-' before the first."""
    return duration(time.time() - directory.metrics.stat().st_mtime) if directory.metrics.exists() else "-"


def skipped(reason: Fate, state: Row) -> str:
    """Why a run of the plan was not started."""
    where = f" (pid {state.get('pid', '?')} on {state.get('host', '?')})" if reason is Fate.LIVE else ""
    return reason.value + where
