"""Rows: the file first, W&B second. W&B is a view, and never stops a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ablate.contract import keys
from ablate.contract.errors import DivergedRun
from ablate.contract.rundir import RunDir, append_row, cut_rows, finite, last_row, read_rows, signature


class Recorder:
    """The one writer of a run's rows, on rank 0."""

    def __init__(self, run: RunDir, config: Mapping[str, Any]) -> None:
        self._run = run
        self._view = _view(run, config) if config["logging"]["wandb"] != "disabled" else None

    def rewind(self, iteration: int, gpu_hours: float) -> None:
        """Drop rows a resumed run will write again; what they had cost is added to ``wasted_hours``."""
        lost = last_row(self._run.metrics).get(keys.GPU_HOURS, 0.0) - gpu_hours
        if lost > 0:
            before = self._run.read_state().get("wasted_hours", 0.0)
            self._run.update_state(wasted_hours=before + lost)
        cut_rows(self._run.metrics, iteration)
        cut_rows(self._run.evals, iteration)

    def evaluated(self, iteration: int) -> bool:
        """Whether the evaluation after ``iteration`` is on record."""
        return any(row[keys.ITERATION] == iteration for row in read_rows(self._run.evals))

    def row(self, row: Mapping[str, Any]) -> None:
        """One iteration.

        Raises:
            DivergedRun: a number is not finite; the row is not written.
        """
        bad = sorted(finite(row))
        if bad:
            raise DivergedRun(
                f"{bad[0]} is {row[bad[0]]} at iteration {row[keys.ITERATION]}; the last checkpoint is kept"
            )
        append_row(self._run.metrics, row)
        self._show(row)

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """One evaluation; its picture lies in the run directory already."""
        append_row(self._run.evals, row)
        self._show(row, self._picture(row))

    def _picture(self, row: Mapping[str, Any]) -> str:
        return str(self._run.root / row[keys.EVAL_IMAGES])

    def _show(self, values: Mapping[str, Any], picture: str | None = None) -> None:
        if self._view is None:
            return
        import wandb  # 0.5 s, paid only by runs that show themselves

        shown = dict(values) | ({"eval/samples": wandb.Image(picture)} if picture else {})
        try:
            self._view.log(shown)  # never with step=: W&B drops rows that come for an earlier step
        except wandb.errors.Error as error:
            print(f"{self._run.root}: no longer shown on W&B ({error}); the record goes on", file=sys.stderr)
            self._view = None

    def close(self) -> None:
        if self._view is not None:
            self._view.finish()


def _view(run: RunDir, config: Mapping[str, Any]) -> Any:
    """The W&B run, or None where W&B cannot be had: the record is complete without it."""
    import wandb

    try:
        return _wandb_run(run, config)
    except wandb.errors.Error as error:
        print(
            f"{run.root}: not shown on W&B ({str(error).splitlines()[0]}); the record is complete",
            file=sys.stderr,
        )
        return None


def _wandb_run(run: RunDir, config: Mapping[str, Any]) -> Any:
    import wandb

    logging = config["logging"]
    view = wandb.init(
        id=run.name,
        name=run.name,
        project=logging["project"],
        entity=logging["entity"],
        group=signature({key: value for key, value in config.items() if key != "seed"}),
        job_type="train",
        tags=[*logging["tags"], *_tags(run, config)],
        config=dict(config),
        dir=str(run.root),
        mode=logging["wandb"],
        resume="allow",
        settings=wandb.Settings(x_disable_stats=True, console="off", silent=True, init_timeout=30),
    )
    view.define_metric(keys.GPU_HOURS)
    for pattern in ("reward/*", "eval/*"):
        view.define_metric(pattern, step_metric=keys.GPU_HOURS)
    view.define_metric("*", step_metric=keys.ITERATION)
    return view


def _tags(run: RunDir, config: Mapping[str, Any]) -> list[str]:
    """The row of a paper the run is, and the commit it runs: what one filters by, beside the config."""
    experiment = config.get("choices", {}).get("experiment")
    lines = run.commit.read_text().splitlines() if run.commit.exists() else []
    commits = [line.partition(": ")[2][:8] for line in lines if line.startswith("commit: ")]
    row = (
        [str(experiment)[:64]] if experiment not in (None, "None", "null") else []
    )  # W&B takes 64 characters
    return [*row, *commits[-1:]]
