"""One row per arm: table.md for people, table.tex for papers, table.csv for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from analysis.arms import Setting
from analysis.curves import SLACK
from analysis.labels import AXES
from analysis.rows import ArmRow, hours_text
from analysis.scores import PROMPTS_FROM
from analysis.spec import Published, Spec
from analysis.stats import INTERVAL_FROM, Estimate

COLUMNS: Final = (
    "arm", "objective", "estimator", "sampler", "policy", "metric", "n", "lost", "reward_initial",
    "reward_final", "reward_low", "reward_high", "best", "area", "area_low", "area_high", "device",
    "device_hours", "samples", "forwards", "hours_to_threshold", "hours_low", "hours_high", "reached",
    "hours_spent", "hours_spent_low", "hours_spent_high", "hours_ratio", "ratio_low", "ratio_high",
    "ratio_at_least", "ratio_to", "published_reward", "published_hours", "published_source",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of a table for people; ``cell`` gives its text, ``bold`` marks the best row."""

    head: str
    cell: Callable[[ArmRow], str]
    number: bool = True
    bold: bool = False


def columns(rows: Sequence[ArmRow], spec: Spec) -> list[Column]:
    """Those that these rows fill."""
    threshold, published = spec.threshold, spec.paper
    found = [Column("arm", lambda row: row.arm.label, number=False)]
    found += [Column(axis, lambda row, axis=axis: row.option(axis), number=False) for axis in AXES]  # type: ignore[misc]
    found += [
        Column("n", _count),
        Column("reward, initial", lambda row: f"{row.initial.value:.3f}"),
    ]
    if published is not None and published.rewards:
        head = "reward, final: paper / here"
        found += [Column(head, lambda row: _beside(published.rewards, row, row.final.text()), bold=True)]
    else:
        found += [Column("reward, final", lambda row: row.final.text(), bold=True)]
    found += [Column("mean on the way", lambda row: "–" if row.area is None else row.area.text())]
    if any(row.runs_on for row in rows):
        found += [Column("reward, own end", lambda row: row.own_text())]
    found += [Column("device-hours", lambda row: hours_text(row.hours))]
    if threshold is not None:
        found += _hours(rows, threshold, published)
    return [
        *found,
        Column("forwards", lambda row: f"{row.forwards:,.0f}" if np.isfinite(row.forwards) else "–"),
    ]


def _hours(rows: Sequence[ArmRow], threshold: float, published: Published | None) -> list[Column]:
    found = [Column(f"hours to {threshold:g}", lambda row: row.threshold_text())]
    if published is not None and published.hours:
        head = f"hours to {threshold:g}: paper / here"
        found = [Column(head, lambda row: _beside(published.hours, row, row.threshold_text()))]
    if any(row.ratio is not None for row in rows):
        found += [Column(f"times the hours of {rows[0].reference}", _ratio)]
    return found


def _forwards(row: ArmRow) -> str:
    return f"{row.forwards:,.0f}" if np.isfinite(row.forwards) else "–"


def _count(row: ArmRow) -> str:
    return f"{row.arm.n} ({row.arm.lost} left out)" if row.arm.lost else str(row.arm.n)


def _ratio(row: ArmRow) -> str:
    if row.arm.label == row.reference:
        return "1"
    return "–" if row.ratio is None else row.ratio.text()


def _beside(numbers: object, row: ArmRow, here: str) -> str:
    known = numbers if isinstance(numbers, dict) else {}
    return f"{known[row.arm.label]:g} / {here}" if row.arm.label in known else f"– / {here}"


def markdown(rows: Sequence[ArmRow], spec: Spec) -> str:
    """The table of one setting with its caption; the best in bold where the intervals single it out."""
    shown = columns(rows, spec)
    lines = ["| " + " | ".join(column.head for column in shown) + " |", "|" + "---|" * len(shown)]
    for row in rows:
        cells = (_bold(column, row, "**{}**") for column in shown)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", caption(rows[0].arm.setting, rows, spec), ""])


def _bold(column: Column, row: ArmRow, mark: str) -> str:
    text = column.cell(row)
    return mark.format(text) if column.bold and row.best else text


TEX: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "∞": r"$\infty$", "·": r"$\cdot$",
    "≥": r"$\geq$", "×": r"$\times$", "±": r"$\pm$", "√": r"$\surd$", "−": r"$-$",
}  # fmt: skip


def tex(text: str) -> str:
    """Text with every character that LaTeX would read as a command, or not at all, written for it."""
    return "".join(TEX.get(letter, letter) for letter in text)


def latex(rows: Sequence[ArmRow], spec: Spec) -> str:
    """The table of one setting for a paper that loads booktabs."""
    shown = columns(rows, spec)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(caption(rows[0].arm.setting, rows, spec))}}}",
        rf"\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in shown)}}}",
        r"\toprule",
        " & ".join(tex(column.head) for column in shown) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        texts = [tex(column.cell(row)) for column in shown]
        cells = [
            rf"\textbf{{{text}}}" if column.bold and row.best else text
            for text, column in zip(texts, shown, strict=True)
        ]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def header() -> str:
    """The first line of table.csv."""
    return ",".join(COLUMNS) + "\n"


def csv_text(rows: Sequence[ArmRow], spec: Spec) -> str:
    """The lines of one setting with bare numbers; ``inf`` where most seeds did not get to the threshold."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    published = spec.paper
    for row in rows:
        setting, ratio = row.arm.setting, row.ratio
        label = row.arm.label
        writer.writerow([
            label, *(row.option(group) for group in AXES), setting.policy, setting.metric, row.arm.n,
            row.arm.lost, _number(row.initial.value), *_interval(row.final), int(row.best),
            *_interval(row.area), setting.device, _number(row.hours),
            _number(row.samples, "{:.0f}"), _number(row.forwards, "{:.0f}"), *_interval(row.median),
            "" if row.times is None else row.reached, *_interval(row.spent),
            *((_number(ratio.value), _number(ratio.low), _number(ratio.high), int(ratio.at_least))
              if ratio is not None else ("", "", "", "")), row.reference,
            *((_number(published.rewards.get(label)), _number(published.hours.get(label)), published.source)
              if published is not None else ("", "", "")),
        ])  # fmt: skip
    return text.getvalue()


def _number(value: float | None, form: str = "{:.6g}") -> str:
    return "" if value is None or math.isnan(value) else form.format(value)


def _interval(estimate: Estimate | None) -> tuple[str, str, str]:
    if estimate is None:
        return "", "", ""
    return _number(estimate.value), _number(estimate.low), _number(estimate.high)


def caption(setting: Setting, rows: Sequence[ArmRow], spec: Spec) -> str:
    """What the columns mean, with the numbers they depend on."""
    parts = [
        f"Policy {setting.policy}, reward {setting.metric}, device {setting.device}.",
        f"Final reward: {spec.statistic} over seeds at {hours_text(rows[0].hours)}, the budget that every "
        f"arm reached (last evaluation no later than {SLACK:.0%} after it).",
        _about_intervals(rows, spec),
    ]
    if spec.threshold is not None:
        parts += [
            f"Hours to {spec.threshold:g}: device-hours of the first evaluation there, median over seeds; "
            "a seed that never got there counts as longer than it ran."
        ]
        if any(row.ratio is not None for row in rows):
            parts += [
                "Times the hours: of the mean hours up to the budget, where such a seed counts with the "
                "whole budget; then the ratio is at least what stands here."
            ]
    errors = [curve.error[-1] for row in rows for curve in row.arm.curves if np.isfinite(curve.error[-1])]
    if errors:
        parts += [f"The standard error of one evaluation, over its samples, is up to {max(errors):.3f}."]
    parts += ["Forwards: of the network on single samples, up to that budget, mean over seeds."]
    return " ".join([*parts, *_about_paper(rows, spec)])


def _about_intervals(rows: Sequence[ArmRow], spec: Spec) -> str:
    if all(row.arm.n < INTERVAL_FROM for row in rows):
        return f"n < {INTERVAL_FROM}: no intervals."
    wide = (
        f" and, from {PROMPTS_FROM} prompts with kept scores up, over prompts"
        if spec.statistic == "mean"
        else ""
    )
    text = f"In brackets, from n = {INTERVAL_FROM} up: 95% interval over seeds{wide}."
    if any(row.best for row in rows):
        return (
            text
            + " Bold: the 95% interval of its difference to every other arm, prompt by prompt, is above 0."
        )
    return text + " No arm is in bold: none differs from every other one for sure." if len(rows) > 1 else text


def _about_paper(rows: Sequence[ArmRow], spec: Spec) -> list[str]:
    published = spec.paper
    if published is None:
        return []
    here = {row.arm.label for row in rows}
    missing = [label for label in {**published.rewards, **published.hours} if label not in here]
    told = f" Published and not run here: {', '.join(missing)}." if missing else ""
    return [
        f"Paper: {published.source}. Its model, reward and device are others: compare the order of rows, "
        f"not the numbers.{told}"
    ]
