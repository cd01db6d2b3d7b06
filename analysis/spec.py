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
class Published:
    """What a paper says of the same arms, shown beside our numbers and never mixed with them.

    Attributes:
        source: the citation, with model, reward and device.
        rewards, hours: {label of an arm: number}.
    """

    source: str
    rewards: Mapping[str, float] = field(default_factory=dict)
    hours: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Published:
        """From the key ``published`` of a report.

        Raises:
            UserError: a key it cannot have, no source, or something that is no number.
        """
        if unknown := sorted(set(content) - {"source", "rewards", "hours"}):
            raise UserError(f"published: unknown key {unknown[0]} (it has source, rewards, hours)")
        if not isinstance(content.get("source"), str):
            raise UserError(
                "published: give the source of the numbers, e.g. source: arXiv:2602.04663 Table 1"
            )
        numbers = {key: content.get(key) or {} for key in ("rewards", "hours")}
        for key, rows in numbers.items():
            if not isinstance(rows, Mapping):
                raise UserError(f"published.{key}={rows} must be a mapping, {{label of an arm: number}}")
            for label, value in rows.items():
                if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
                    raise UserError(f"published.{key}: {label}: {value} is no number")
        return cls(content["source"], dict(numbers["rewards"]), dict(numbers["hours"]))


@dataclass(frozen=True)
class Spec:
    """One report.

    Attributes:
        metric: a reward's name, or "headline" for the one each run's config names.
        threshold: reward of the column hours_to_threshold; None leaves the column empty.
        labels: {automatic label of an arm: wanted label}; arms not named keep the automatic one.
        statistic: over seeds, "mean" or "iqm".
        reference: label of the arm that hours are compared with; None takes the fastest.
        published: what a paper says of these arms: source, rewards and hours by label.
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
    reference: str | None = None
    published: Mapping[str, Any] = field(default_factory=dict)

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
        texts = {"title": self.title, "metric": self.metric, "sweep": self.sweep or ""}
        for key, value in (texts | {"reference": self.reference or ""}).items():
            if not isinstance(value, str):
                raise UserError(f"{key}={value} must be text")
        if not isinstance(self.published, Mapping):
            raise UserError(f"published={self.published} must be a mapping of source, rewards and hours")
        _ = self.paper

    @property
    def paper(self) -> Published | None:
        """What a paper says, or None."""
        return Published.read(self.published) if self.published else None


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
