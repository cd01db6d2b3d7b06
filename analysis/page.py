"""One self-contained page: nothing on it is fetched from anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ablate.contract.rundir import write_text
from analysis.arms import Arm
from analysis.health import Health, health
from analysis.labels import AXES, JOIN, differing, identity
from analysis.look import style
from analysis.report import Figures, Panel, Report, table_csv, table_md, table_tex
from analysis.rows import ArmRow, hours_text
from analysis.samples import Strip, data_uri, strips
from analysis.shares import sentence
from analysis.spec import REPORTS
from analysis.tables import caption

TEMPLATES: Final = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class Task:
    """One arm on one task, mean over seeds: before training, and at the common budget."""

    tag: str
    initial: float
    final: float


@dataclass(frozen=True)
class Difference:
    """A config key and its value in every arm of a setting, in the order of the table."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A setting as the page shows it; ``scale`` is the reward at which a bar is full."""

    panel: Panel
    caption: str
    scale: float
    tags: tuple[str, ...]
    tasks: tuple[tuple[ArmRow, tuple[Task, ...]], ...]
    strips: tuple[Strip, ...]
    health: tuple[Health, ...]
    differences: tuple[Difference, ...]
    shared: str


def write_page(report: Report, drawn: Figures, out: Path) -> Path:
    """index.html."""
    write_text(out / "index.html", render(report, drawn))
    return out / "index.html"


def render(report: Report, drawn: Figures) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"hours": hours_text, "signed": lambda value: f"{value:+.2f}".replace("-", "−")}
    return environment.get_template("report.html").render(
        report=report,
        spec=report.spec,
        sections=[_section(report, panel) for panel in report.panels],
        figure=_uris(drawn),
        others={name: _uris(forms) for name, forms in drawn.others.items()},
        told=sentence,
        config_text=_config_text,
        files={
            "curve.svg": data_uri(drawn.svg, "image/svg+xml"),
            "curve.png": data_uri(drawn.png, "image/png"),
            "table.csv": data_uri(table_csv(report).encode(), "text/csv"),
            "table.tex": data_uri(table_tex(report).encode(), "application/x-tex"),
            "table.md": data_uri(table_md(report).encode(), "text/markdown"),
        },
        most=max(row.arm.n for rows in report.tables for row in rows),
        commits=_commits(report),
        when=_when(report),
        command=_command(report),
        style=style,
        full_name=full_name,
    )


def _uris(drawn: Figures) -> dict[str, str]:
    """The forms of a picture that a page shows, by colour scheme and width."""
    forms = {
        "light": drawn.light,
        "dark": drawn.dark,
        "light_narrow": drawn.light_narrow,
        "dark_narrow": drawn.dark_narrow,
    }
    return {name: data_uri(content, "image/svg+xml") for name, content in forms.items()}


def _config_text(arm: Arm) -> str:
    """The config of an arm, its seed left out."""
    config = {key: value for key, value in arm.records[0].config.items() if key != "seed"}
    return str(yaml.safe_dump(config, sort_keys=False))


def full_name(arm: Arm) -> str:
    """The three axes of an arm; "" where its label says them already."""
    name = JOIN.join(arm.choices[axis] for axis in AXES if axis in arm.choices)
    return "" if name == arm.label else name


def _section(report: Report, panel: Panel) -> Section:
    spec, rows = report.spec, panel.rows
    arms = [row.arm for row in rows]
    configs = [identity(arm.records[0].config) for arm in arms]
    telling = differing(configs)
    shown = (value for row in rows for value in (row.initial.value, row.final.value, row.final.high or 0.0))
    highest = max(spec.threshold or 0.0, *shown)
    tags = tuple(dict.fromkeys(tag for arm in arms for curve in arm.curves for tag in curve.tasks))
    return Section(
        panel=panel,
        caption=caption(panel.setting, rows, spec),
        scale=1.0 if highest <= 1.0 else highest,
        tags=tags if len(tags) > 1 else (),
        tasks=tuple((row, tuple(_task(row, tag) for tag in tags)) for row in rows),
        strips=tuple(strips(arms)),
        health=tuple(health(arms, report.frames.metrics)),
        differences=tuple(
            Difference(key, tuple(str(config.get(key, "–")) for config in configs)) for key in telling
        ),
        shared=yaml.safe_dump(
            {key: value for key, value in configs[0].items() if key not in telling}, sort_keys=False
        ),
    )


def _task(row: ArmRow, tag: str) -> Task:
    series = [(curve, curve.tasks[tag]) for curve in row.arm.curves if tag in curve.tasks]
    grid = np.array([row.hours])
    return Task(
        tag,
        initial=float(np.mean([values[0] for _, values in series])),
        final=float(np.mean([curve.at(values, grid)[0] for curve, values in series])),
    )


def _commits(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    """Every code version with the runs it made."""
    texts: dict[str, list[str]] = {}
    for record in report.records:
        texts.setdefault(record.commit or "not recorded", []).append(record.signature)
    return [(text, tuple(names)) for text, names in texts.items()]


def _command(report: Report) -> str:
    name = report.spec.name
    if (REPORTS / f"{name}.yaml").is_file():
        return f"python -m analysis report={name}"
    return f"python -m analysis {f'sweep={name}' if report.sweep else 'runs=…'}"


def _when(report: Report) -> str:
    """The days on which the runs started, UTC; not today: the same runs give the same page."""
    started = sorted(float(record.state["started"]) for record in report.records if "started" in record.state)
    days = list(dict.fromkeys(f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}" for at in started))
    return days[0] if len(days) == 1 else f"{days[0]} – {days[-1]}" if days else "not recorded"
