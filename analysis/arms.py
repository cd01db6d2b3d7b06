"""Runs that differ only in their seed are one arm; arms on one policy, metric and device are one setting."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from ablate.contract import keys
from ablate.contract.errors import UserError
from analysis.curves import Curve, Floats
from analysis.labels import identity, label_arms
from analysis.load import SIGNATURE, Frames
from analysis.record import RunRecord
from analysis.scores import prompt_scores
from analysis.spec import Spec, did_you_mean

HEADLINE: Final = "headline"


@dataclass(frozen=True, order=True)
class Setting:
    """What must be equal before two rewards, or two device-hours, may be compared."""

    policy: str
    metric: str
    device: str

    @property
    def hours_name(self) -> str:
        """The unit of its x axis."""
        return "CPU process-hours" if self.device == "cpu" else f"GPU-hours ({self.device})"


@dataclass(frozen=True)
class Arm:
    """One cell of the grid with all its seeds; ``records`` and ``curves`` run over the seeds, in order.

    ``place`` counts the arms of a setting by label, not by reward, so that an arm keeps its colour.
    ``lost`` counts seeds of the same cell that are left out: a mean over survivors must say so.
    """

    label: str
    place: int
    lost: int
    setting: Setting
    records: tuple[RunRecord, ...]
    curves: tuple[Curve, ...]

    @property
    def choices(self) -> dict[str, str]:
        return self.records[0].choices

    @property
    def n(self) -> int:
        return len(self.curves)

    @property
    def end(self) -> float:
        """Device-hours that every seed has reached."""
        return min(curve.end for curve in self.curves)

    def values(self, grid: Floats) -> Floats:
        """The metric of every seed at grid [H] device-hours: [S,H]."""
        return np.stack([curve.at(curve.value, grid) for curve in self.curves])


@dataclass(frozen=True)
class LeftOut:
    """A run that no number of the report rests on, and why."""

    record: RunRecord
    reason: str


def sort_out(records: Sequence[RunRecord], spec: Spec) -> tuple[list[RunRecord], list[LeftOut]]:
    """The runs a report can use, and the others with the reason."""
    left_out = [LeftOut(record, reason) for record in records if (reason := _reason(record, spec))]
    refused = {other.record.signature for other in left_out}
    return [record for record in records if record.signature not in refused], left_out


def _reason(record: RunRecord, spec: Spec) -> str:
    if record.damage:
        return f"cannot be read: {record.damage}"
    if record.progress != "done" and not spec.unfinished:
        error = record.state.get("error")
        return f"{record.progress}: {error}" if error else f"{record.progress}, not finished"
    if all(row[keys.ITERATION] == 0 for row in record.evals):
        return "has no evaluation after the start of training"
    if len(devices := _devices(record)) > 1:
        return f"was recorded on {len(devices)} devices ({', '.join(devices)}): its hours have no common unit"
    return _unsound(record, spec)


def _unsound(record: RunRecord, spec: Spec) -> str:
    """What in a record no number may rest on."""
    try:
        name = str(record.config["reward"]["headline"]) if spec.metric == HEADLINE else spec.metric
        _ = record.seed
    except (KeyError, TypeError, ValueError):
        return "its config names no seed or no headline reward: it was recorded by another version"
    before = 0.0
    for row in sorted(record.evals, key=lambda row: int(row[keys.ITERATION])):
        at, hours = row[keys.ITERATION], row.get(keys.GPU_HOURS)
        if not isinstance(hours, (int, float)) or not math.isfinite(hours) or keys.DEVICE not in row:
            return f"has no device-hours at iteration {at}: it was recorded by another version"
        if hours < before:
            return f"its device-hours go back at iteration {at}, from {before:g} to {hours:g}"
        before = hours
        value = row.get(keys.eval_mean(name))
        if keys.eval_mean(name) in record.evals[0] and not (
            isinstance(value, (int, float)) and math.isfinite(value)
        ):
            return f"its {name} reward at iteration {at} is {value}: no number"
    return ""


def _devices(record: RunRecord) -> list[str]:
    return sorted({str(row[keys.DEVICE]) for row in (*record.metrics, *record.evals) if keys.DEVICE in row})


def metric_of(record: RunRecord, metric: str) -> str:
    """The reward's name: the one asked for, or the run's own headline.

    Raises:
        UserError: the run was not evaluated on it.
    """
    name = str(record.config["reward"]["headline"]) if metric == HEADLINE else metric
    evaluated = [
        key.removeprefix("eval/").removesuffix("/mean")
        for key in record.evals[0]
        if key.startswith("eval/") and key.endswith("/mean")
    ]
    if name not in evaluated:
        raise UserError(
            f"run {record.signature} was not evaluated on metric={name}{did_you_mean(name, evaluated)} "
            f"(it was on {', '.join(evaluated) or 'nothing'}; metric=headline takes the one its config names)"
        )
    return name


def group(
    records: Sequence[RunRecord], left_out: Sequence[LeftOut], frames: Frames, spec: Spec
) -> dict[Setting, list[Arm]]:
    """Arms by setting, by label. Devices and policies are kept apart, never pooled.

    Raises:
        UserError: a label is given to an arm that does not exist, though every run is there.
    """
    cells: dict[tuple[Setting, str], list[RunRecord]] = {}
    for record in records:
        setting = Setting(
            policy=record.choices.get("policy", "unknown"),
            metric=metric_of(record, spec.metric),
            device=_devices(record)[0],
        )
        cells.setdefault((setting, _cell(record)), []).append(record)
    labels = _labels([members[0] for members in cells.values()], spec.labels, whole=not left_out)
    arms: dict[Setting, list[Arm]] = {}
    for label, (setting, cell), members in sorted(
        zip(labels, cells, cells.values(), strict=True), key=lambda row: (row[0], row[1])
    ):
        seeds = tuple(sorted(members, key=lambda record: (record.seed, record.signature)))
        arms.setdefault(setting, []).append(
            Arm(
                label=label,
                place=len(arms.get(setting, ())),
                lost=sum(
                    _cell(other.record) == cell and _could_be(other.record, setting) for other in left_out
                ),
                setting=setting,
                records=seeds,
                curves=tuple(_curve(record, frames.evals, setting.metric) for record in seeds),
            )
        )
    return arms


def _cell(record: RunRecord) -> str:
    return json.dumps(identity(record.config), sort_keys=True)


def _could_be(record: RunRecord, setting: Setting) -> bool:
    """Whether a run belongs to a setting as far as it tells; one without rows tells no device."""
    devices = _devices(record)
    return not devices or setting.device in devices


def _labels(firsts: Sequence[RunRecord], wanted: Mapping[str, str], *, whole: bool) -> list[str]:
    labels = label_arms([run.choices for run in firsts], [identity(run.config) for run in firsts])
    for label in wanted:
        if whole and label not in labels:  # an arm may be missing because its runs failed or still run
            raise UserError(
                f"labels: no arm is called {label!r}{did_you_mean(label, labels)} "
                f"(arms: {', '.join(dict.fromkeys(labels))}); labels={{}} keeps the automatic ones"
            )
    return [wanted.get(label, label) for label in labels]


def _curve(record: RunRecord, evals: pd.DataFrame, metric: str) -> Curve:
    rows = evals[evals[SIGNATURE] == record.signature]
    per_prompt = int((record.config.get("evaluation") or {}).get("samples_per_prompt", 1))
    kept = list({row[keys.ITERATION]: row for row in record.evals}.values())
    tags = list(dict.fromkeys(tag for row in record.evals for tag in row.get(keys.EVAL_TAGS, ())))
    return Curve(
        signature=record.signature,
        seed=record.seed,
        iteration=_floats(rows, keys.ITERATION),
        hours=_floats(rows, keys.GPU_HOURS),
        value=_floats(rows, keys.eval_mean(metric)),
        error=np.array([_standard_error(values) for values in _scores(rows, metric)]),
        forwards=_floats(rows, keys.FORWARDS),
        tasks={tag: _floats(rows, key) for tag in tags if (key := keys.eval_tag(metric, tag)) in rows},
        images=tuple(
            record.root / image if record.root and isinstance(image, str) else None
            for image in (rows[keys.EVAL_IMAGES] if keys.EVAL_IMAGES in rows else [None] * len(rows))
        ),
        samples=_floats(rows, keys.SAMPLES),
        scores=prompt_scores(sorted(kept, key=lambda row: int(row[keys.ITERATION])), metric, per_prompt),
    )


def _scores(rows: pd.DataFrame, metric: str) -> Iterator[Sequence[float]]:
    """The metric of every sample, for each evaluation; empty where it was not kept."""
    for kept in rows[keys.EVAL_VALUES] if keys.EVAL_VALUES in rows else [None] * len(rows):
        yield kept.get(metric, ()) if isinstance(kept, dict) else ()


def _standard_error(values: Sequence[float]) -> float:
    """std/√N over the samples of one evaluation."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _floats(rows: pd.DataFrame, key: str) -> Floats:
    return rows[key].to_numpy(dtype=np.float64) if key in rows else np.full(len(rows), np.nan)


def evaluated_alike(arms: Sequence[Arm]) -> list[str]:
    """Keys of ``evaluation`` that differ between arms: their rewards are then not measured alike."""
    ignored = ("every_iterations", "batch")  # when and in what portions, not what

    def protocol(config: Mapping[str, Any]) -> dict[str, Any]:
        given: Mapping[str, Any] = config.get("evaluation") or {}
        return {key: value for key, value in given.items() if key not in ignored}

    first = protocol(arms[0].records[0].config)
    others = [protocol(arm.records[0].config) for arm in arms]
    return sorted({key for other in others for key in {*other, *first} if other.get(key) != first.get(key)})
