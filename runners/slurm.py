"""The launcher ``slurm``: a grid becomes queued jobs, and the submitting shell may go away. No torch."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.utils import JobReturn
from rich.console import Console

from ablate.contract import files
from ablate.contract.rundir import RunDir
from runners import queue, sbatch, submit, view
from runners.forecast import guard
from runners.local import LocalLauncher
from runners.plan import Run, plan


class SlurmLauncher(LocalLauncher):
    """Hydra's door to ``launch``."""

    def __init__(self) -> None:
        super().__init__(equivalences=0)  # nobody stays to warn

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the cells and return nothing: what becomes of them is in their directories."""
        launch(self.asked, job_overrides)
        return []


def launch(asked: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Plan, record and submit a grid. What is done, queued or running is left alone.

    Raises:
        UserError: a typo in some cell, resources no job can have, a file or checkpoint that is not here, or
            SLURM refuses.
    """
    out = view.console()
    items = plan(cells)
    runs = [item for item in items if isinstance(item, Run)]
    for run in runs:
        sbatch.check(run.config["resources"])
        if submit.fate(run).starts:
            files.check(run.config)  # jobs see what this machine sees: runs/ and the files are shared
    if not runs:
        submit.record(asked, items)
        out.print(view.show_plan(items))
        return
    with one_at_a_time(runs[0].directory.root.parent):
        guard(runs)
        submit.record(asked, items)
        out.print(view.show_plan(items))
        starting = [run for run in runs if submit.fate(run).starts]
        for run in runs:
            submit.snapshot(run) if run in starting else submit.name(run)
        batches = hand_over([run.directory for run in starting], out)
        after = runs[0].config["resources"]["slurm"]["after"]
        if batches and after:
            out.print(f"then as job {sbatch.submit_after(batches, after)}: {after}")


def hand_over(directories: Sequence[RunDir], out: Console) -> list[sbatch.Batch]:
    """Submit and say under which numbers."""
    batches = []
    for batch in sbatch.submit(directories):
        batches.append(batch)
        last = len(batch.runs) - 1
        out.print(
            f"submitted {len(batch.runs)} runs as job {batch.job}_[0-{last}], script {batch.folder}/job.sh"
        )
    queue.listed.cache_clear()
    if directories:
        out.print("this shell may close; see them with: python -m runners status")
    return batches


@contextmanager
def one_at_a_time(runs: Path) -> Iterator[None]:
    """Two submissions at once would both find a run free; the second waits for the first."""
    path = runs / ".slurm" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        queue.listed.cache_clear()
        yield
