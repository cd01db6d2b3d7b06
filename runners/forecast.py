"""Device-hours of runs that have not run, from those that have. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.contract import keys
from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir, last_row
from runners.plan import Run
from runners.recall import arm, recall
from runners.submit import fate

Speed = dict[tuple[str, bool], list[float]]  # (name, on a GPU) -> [hours, iterations or samples]


@dataclass(frozen=True)
class Forecast:
    """Speeds on record: hours per iteration of an arm, and per sample of a policy.

    The first is a measurement of the same work. The second stands in for an arm that never ran, right to a
    factor of a few: arms ask their networks differently often.
    """

    arms: Speed = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    policies: Speed = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))

    def hours(self, run: Run) -> tuple[float | None, bool]:
        """What the run still needs, all processes together, and whether its own arm was measured.

        None where nothing like it is on record and no ``budget.gpu_hours`` bounds it.
        """
        budget, batch = run.config["budget"], run.config["batch"]
        on_gpu = run.config["resources"]["gpus"] > 0
        drawn = batch["prompts"] * batch["group_size"]
        own, iterations = self.arms.get((arm(run.config), on_gpu), (0.0, 0.0))
        alike, samples = self.policies.get((str(run.choices.get("policy")), on_gpu), (0.0, 0.0))
        measured = iterations > 0
        each = own / iterations if measured else alike / samples * drawn if samples else None
        limits = [] if budget["gpu_hours"] is None else [float(budget["gpu_hours"])]
        if each is not None:
            counts = (budget["iterations"], budget["samples"] and budget["samples"] / drawn)
            limits += [count * each for count in counts if count is not None]
        if not limits:
            return None, False
        spent = float(last_row(run.directory.metrics).get(keys.GPU_HOURS, 0.0))
        return max(0.0, min(limits) - spent), measured


def look_back(runs: Path) -> Forecast:
    """The speeds of every run recorded below a folder."""
    told = Forecast()
    found = [RunDir(path.parent) for path in sorted(runs.glob("*/config.yaml"))]
    for directory, config in zip(found, recall(runs, found), strict=True):
        row = last_row(directory.metrics)
        if not row:
            continue
        on_gpu = row[keys.DEVICE] != "cpu"
        policy = str((config["choices"] or {}).get("policy"))
        _add(told.arms[config["arm"], on_gpu], row, keys.ITERATION)
        _add(told.policies[policy, on_gpu], row, keys.SAMPLES)
    return told


def _add(total: list[float], row: Mapping[str, Any], count: str) -> None:
    total[0] += row[keys.GPU_HOURS]
    total[1] += row[count]


def guard(runs: Sequence[Run]) -> None:
    """Refuse a submission that would use more than ``budget.sweep_gpu_hours``.

    Raises:
        UserError: the runs that would start need more, or some cannot be foretold.
    """
    given = [run.config["budget"]["sweep_gpu_hours"] for run in runs]
    limits = [limit for limit in given if limit is not None]
    starting = [run for run in runs if fate(run).starts] if limits else []
    if not starting:
        return
    told = look_back(runs[0].directory.root.parent)
    hours = [told.hours(run)[0] for run in starting]
    limit, name = min(limits), "budget.sweep_gpu_hours"
    unknown = [run.signature for run, needed in zip(starting, hours, strict=True) if needed is None]
    if unknown:
        raise UserError(
            f"{name} = {limit} cannot be kept: nothing like {len(unknown)} of {len(starting)} runs is on "
            f"record (the first is {unknown[0]}); run one of them first, or give budget.gpu_hours"
        )
    total = sum(needed for needed in hours if needed is not None)
    if total > limit:
        raise UserError(
            f"{len(starting)} runs need {total:.3g} GPU-hours by the record, more than {name} = {limit}; "
            "raise it, or ask for fewer cells"
        )
