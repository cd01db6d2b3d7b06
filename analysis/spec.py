"""What a report shows: ``conf/report/<name>.yaml``, with keys of the command line over it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import yaml

from ablate.contract.errors import UserError
from analysis.stats import STATISTICS

REPORTS: Final = Path(__file__).resolve().parent.parent / "conf" / "report"


@dataclass(frozen=True)
class Spec:
    """One report.

    Attributes:
        metric: a reward's name, or "headline" for the one each run's config names.
        threshold: reward of the column hours_to_threshold; None leaves the column empty.
        labels: {automatic label of an arm: wanted label}; arms not named keep the automatic one.
        statistic: over seeds, "mean" or "iqm".
        unfinished: also use runs that have not finished, or failed, as far as they got.

    Raises:
        UserError: a value of the wrong kind.
    """

    name: str
    title: str
    sweep: str | None = None
    metric: str = "headline"
    threshold: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    statistic: str = "mean"
    unfinished: bool = False

    def __post_init__(self) -> None:
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if self.threshold is not None and not (number and math.isfinite(self.threshold)):
            raise UserError(f"threshold={self.threshold} is no number; give a reward, e.g. threshold=0.6")
        if self.statistic not in STATISTICS:
            raise UserError(f"statistic={self.statistic} is unknown; choose {' or '.join(STATISTICS)}")
        if not isinstance(self.unfinished, bool):
            raise UserError(f"unfinished={self.unfinished} must be true or false")
        if not isinstance(self.labels, Mapping):
            raise UserError(f"labels={self.labels} must be a mapping, {{automatic label: wanted label}}")
        for key, value in (("title", self.title), ("metric", self.metric), ("sweep", self.sweep or "")):
            if not isinstance(value, str):
                raise UserError(f"{key}={value} must be text")


KEYS: Final = tuple(key.name for key in fields(Spec) if key.name != "name")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean demo?" or "", from what is known."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def read_spec(name: str, changes: Mapping[str, Any], folder: Path = REPORTS) -> Spec:
    """The spec of a report, with ``changes`` over its keys.

    Raises:
        UserError: no such report, or a key it cannot have.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(other.stem for other in folder.glob("*.yaml"))
        raise UserError(
            f"there is no report {name}{did_you_mean(name, known)} (known: {', '.join(known) or 'none'}; "
            f"a report is a file conf/report/<name>.yaml)"
        )
    content = yaml.safe_load(path.read_text()) or {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must be a mapping of {', '.join(KEYS)}")
    return make_spec(name, content | dict(changes), where=str(path))


def make_spec(name: str, content: Mapping[str, Any], where: str = "the command line") -> Spec:
    """A spec from its keys; the title is the name where none is given.

    Raises:
        UserError: a key that no report has.
    """
    for key in content:
        if key not in KEYS:
            raise UserError(
                f"unknown key {key} in {where}{did_you_mean(str(key), KEYS)} (a report has {', '.join(KEYS)})"
            )
    return Spec(name=name, **({"title": name} | dict(content)))
