"""The launcher ``local``: the cells of a grid over this machine's cores or GPUs, one process group each.

A crash, a leak or an out-of-memory kill stays in its cell; a free seat takes the next one. No torch.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ablate.contract import files
from runners import equal, process, submit, view
from runners.forecast import guard
from runners.machine import Machine, Seat, this_machine
from runners.plan import Run, plan
from runners.submit import Fate

COLUMNS = ("run", "cell", "state", "iteration", "reward", "device_h", "note")


class LocalLauncher(Launcher):
    """Hydra's door to ``launch``; ``equivalences`` is as in conf/hydra/launcher."""

    def __init__(self, equivalences: int) -> None:
        self.asked: list[str] = []
        self.equivalences = equivalences

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember the command line; cells run from their snapshots, so Hydra's task function is not used."""
        self.asked = [str(override) for override in config.hydra.overrides.task]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the cells and return nothing: what became of them is in their directories."""
        failed = launch(self.asked, job_overrides, self.equivalences)
        if failed:
            raise SystemExit(1)
        return []


@dataclass
class Job:
    """A run of the plan, and its process while it has one."""

    run: Run
    label: str
    fate: Fate
    seat: Seat | None = None
    child: subprocess.Popen[bytes] | None = None
    state: str = "waiting"
    note: str = ""

    def row(self) -> tuple[str, ...]:
        """The columns of COLUMNS."""
        progress = view.numbers(self.run.directory, self.run.config["budget"])
        return (self.run.signature, self.label, self.state, *progress, self.note)


def launch(asked: Sequence[str], cells: Sequence[Sequence[str]], equivalences: int) -> list[Job]:
    """Plan, record and run a grid; returns the cells that failed or were stopped. A refusal is no failure.

    Args:
        equivalences: warn of equal cells among at most so many different updates; 0 does not look for them.

    Raises:
        UserError: a typo in some cell, too few GPUs, or a file or checkpoint that is not here; nothing has
            started then.
    """
    out = view.console()
    items = plan(cells)
    runs = [item for item in items if isinstance(item, Run)]
    machine = this_machine()
    for run in runs:
        machine.check(run.config["resources"])
        if submit.fate(run).starts:
            files.check(run.config)
    guard(runs)
    submit.record(asked, items)
    out.print(view.show_plan(items))
    labels = view.labels(items)
    jobs = [_job(run, labels[run.overrides]) for run in runs]
    left = any(job.fate.starts for job in jobs)
    return attend(jobs, machine, out, equal.watch(runs if left else [], equivalences, out))


def attend(jobs: Sequence[Job], machine: Machine, out: Console, watch: equal.Watch) -> list[Job]:
    """Run what is left of these, show what became of all; returns those that failed or were stopped."""
    Crew(machine, [job for job in jobs if job.fate.starts], out, watch).work()
    if jobs:
        out.print(view.table("results", COLUMNS, (job.row() for job in jobs)))
    failed = [job for job in jobs if job.state in ("failed", "stopped")]
    for job in failed:
        print(f"{job.run.directory.root} {job.state}: {job.note}", file=sys.stderr)
    return failed


def _job(run: Run, label: str) -> Job:
    job = Job(run, label, submit.fate(run))
    if job.fate.starts:
        submit.snapshot(run)
        return job
    submit.name(run)
    job.state = "done" if job.fate is Fate.DONE else "running"
    job.note = view.skipped(job.fate, run.directory.read_state())
    return job


@dataclass
class Crew:
    """Keeps the machine's seats filled until every job has ended."""

    machine: Machine
    jobs: list[Job]
    out: Console
    watch: equal.Watch

    def work(self) -> None:
        """Run all jobs. Ctrl-C and SIGTERM end those that run and say how to go on.

        Raises:
            SystemExit: interrupted; 130.
        """
        if not self.jobs:
            return
        terminal = self.out.is_terminal
        live = Live(console=self.out, get_renderable=self._live_view, refresh_per_second=2, transient=True)
        with process.interruptible():
            try:
                with live if terminal else nullcontext():
                    while any(job.state in ("waiting", "running") for job in self.jobs):
                        self._step()
                        self.watch.look()
                        time.sleep(process.PAUSE_S)
                self.watch.finish()
            except BaseException as error:  # whatever ends the launcher, no run is left without one
                self._stop()
                if isinstance(error, KeyboardInterrupt):
                    raise SystemExit(130) from error
                raise

    def _step(self) -> None:
        for job in self.jobs:
            if job.child is not None and job.child.poll() is not None:
                self._finish(job, job.child.returncode)
        for job in self.jobs:
            if job.state != "waiting":
                continue
            job.seat = self.machine.take(job.run.config["resources"])
            if job.seat is None:
                break  # first come, first served: a wide run is not overtaken for ever
            job.child = process.start(job.run.directory, job.run.config["resources"], job.seat.gpus)
            job.state = "running"
            self._say(job, "resumed" if job.fate is Fate.RESUME else "started")

    def _finish(self, job: Job, code: int) -> None:
        assert job.seat is not None
        self.machine.give_back(job.seat)
        job.child = None
        recorded = job.run.directory.read_state().get("state")
        job.state = recorded if recorded in ("done", "stopped") else "failed"
        job.note = "" if job.state == "done" else why(job, code)
        self._say(job, f"{job.state}{': ' if job.note else ''}{job.note}")

    def _say(self, job: Job, event: str) -> None:
        if not self.out.is_terminal:
            ended = sum(other.state not in ("waiting", "running") for other in self.jobs)
            print(f"{job.run.signature} {job.label}: {event} ({ended} of {len(self.jobs)} ended)", flush=True)

    def _stop(self) -> None:
        self.watch.end()
        running = [job for job in self.jobs if job.child is not None]
        print(f"stopping {len(running)} runs", file=sys.stderr)
        process.end([job.child for job in running if job.child is not None])
        print("stopped; repeat the same command to go on where they were", file=sys.stderr)

    def _live_view(self) -> Table:
        words = ("done", "failed", "stopped", "running", "waiting")
        counts = {word: sum(job.state == word for job in self.jobs) for word in words}
        title = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
        running = [job for job in self.jobs if job.state == "running"]
        etas = [view.duration(job.run.directory.read_state().get("eta_s")) for job in running]
        rows = [(*job.row()[:-1], eta) for job, eta in zip(running, etas, strict=True)]
        return view.table(title, (*COLUMNS[:-1], "eta"), rows)


def why(job: Job, code: int) -> str:
    """What ended a run, in one line: its own word, else the last of its log, else the signal."""
    state = job.run.directory.read_state()
    if job.state == "stopped":
        return "stopped on request; repeat the command to go on"
    if state.get("state") == "failed" and state.get("error"):
        return str(state["error"]).splitlines()[0]
    if code < 0:
        return f"ended by {signal.Signals(-code).name}; repeat the command to go on"
    lines = [line for line in job.run.directory.log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {code}"
