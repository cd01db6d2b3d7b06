"""Runs to SLURM jobs: one array per kind of resources, its script kept beside the runs it starts. No torch.

    runs/.slurm/<batch>/  job.sh  runs.txt (line i is task i)  <task>.out (what came before the run's own log)

Plain text and not submitit: a job here is a command on a directory, so there is no function to pickle and no
result to fetch, and the script is what a user reads when a cluster says no.
"""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir, write_text
from runners import freeze
from runners.queue import NAME, slurm

LARGEST = 1000  # tasks of one array; SLURM's own default allows 1001
CURES = {
    "partition": "`sinfo -o %P` lists the partitions",
    "account": "`sacctmgr show assoc user=$USER` lists the accounts",
    "qos": "`sacctmgr show assoc user=$USER format=qos` lists them",
}


@dataclass(frozen=True)
class Batch:
    """Runs submitted as one array; ``job`` is the number SLURM gave it."""

    folder: Path
    job: str
    runs: tuple[RunDir, ...]


def check(resources: Mapping[str, Any]) -> None:
    """Refuse what no cluster can run, before anything is recorded.

    Raises:
        UserError: no sbatch, or resources that do not say what a job is.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "there is no sbatch on the PATH; submit from a login node, or choose hydra/launcher=local"
        )
    own = resources.get("slurm")
    if own is None:
        raise UserError(
            "these resources have no slurm section; choose resources=slurm, or a yaml built on it"
        )
    for name in ("nodes", "minutes", "lead_s"):
        if type(own[name]) is not int or own[name] < 1:
            raise UserError(f"resources.slurm.{name} = {own[name]} must be a whole number, 1 or more")
    if resources["processes"] % own["nodes"]:
        raise UserError(
            f"resources.processes = {resources['processes']} must be a multiple of resources.slurm.nodes = "
            f"{own['nodes']}; every node takes as many"
        )
    if own["lead_s"] >= own["minutes"] * 60:
        raise UserError(
            f"resources.slurm.lead_s = {own['lead_s']} must be less than the job's "
            f"{own['minutes'] * 60} s; raise resources.slurm.minutes"
        )


def submit(directories: Sequence[RunDir]) -> Iterator[Batch]:
    """Hand runs to SLURM, equal resources and code as one array; yields each batch once it is queued.

    Raises:
        UserError: sbatch refuses; those runs are left as they were.
    """
    groups: dict[str, list[RunDir]] = {}
    for directory in directories:
        kind = [directory.read_config()["resources"], str(freeze.code_of(directory))]
        groups.setdefault(json.dumps(kind, sort_keys=True), []).append(directory)
    for members in groups.values():
        for first in range(0, len(members), LARGEST):
            yield _submit(members[first : first + LARGEST])


def _submit(runs: Sequence[RunDir]) -> Batch:
    resources = runs[0].read_config()["resources"]
    folder = runs[0].root.resolve().parent / ".slurm" / secrets.token_hex(4)
    text = script(folder, resources, freeze.code_of(runs[0]), len(runs))
    write_text(folder / "runs.txt", "".join(f"{run.root.resolve()}\n" for run in runs))
    write_text(folder / "job.sh", text)
    before = [run.job.read_text() if run.job.exists() else None for run in runs]
    entries = [{"batch": folder.name, "index": i, "submitted": time.time()} for i in range(len(runs))]
    for run, entry in zip(runs, entries, strict=True):
        write_text(
            run.job, json.dumps(entry) + "\n"
        )  # first: a submission that dies here is found by its name
    try:
        job = slurm("sbatch", "--parsable", str(folder / "job.sh")).strip().partition(";")[0]
    except UserError as error:
        for run, old in zip(runs, before, strict=True):
            run.job.unlink() if old is None else write_text(run.job, old)
        shutil.rmtree(folder)
        raise UserError(f"{error}; {_cure(str(error), resources['slurm'])}") from error
    for run, entry in zip(runs, entries, strict=True):
        write_text(run.job, json.dumps(entry | {"job": f"{job}_{entry['index']}"}) + "\n")
        write_text(run.root / "job.sh", text)
    return Batch(folder, job, tuple(runs))


def submit_after(batches: Sequence[Batch], line: str) -> str:
    """Queue a shell line for when every run of these batches has ended, however; returns its job's number.

    Raises:
        UserError: sbatch refuses.
    """
    ended = "afterany:" + ":".join(batch.job for batch in batches)
    output = f"--output={batches[0].folder}/after.out"
    words = ("sbatch", "--parsable", f"--dependency={ended}", output, f"--wrap={line}")
    return slurm(*words).strip().partition(";")[0]


def _cure(error: str, own: Mapping[str, Any]) -> str:
    for name, cure in CURES.items():
        if name in error.lower():
            return f"resources.slurm.{name} = {own[name]}: {cure}"
    return "see resources.slurm in the run's config"


def script(folder: Path, resources: Mapping[str, Any], code: Path | None, count: int) -> str:
    """The sbatch text for ``count`` runs listed in ``folder``."""
    own = resources["slurm"]
    options = [*_options(folder, resources, count), *own["options"]]
    exports = (f"export {name}={shlex.quote(value)}" for name, value in freeze.environment(code).items())
    runs = shlex.quote(str(folder / "runs.txt"))
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in options),
        "",
        "set -e",
        *own["setup"],
        *exports,
        f'run=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {runs})',
        "# exec: SLURM's warning reaches the batch process alone, and this is it",
        f'exec {shlex.quote(sys.executable)} -m runners.attempt "$run"',
    ]
    return "\n".join(lines) + "\n"


def _options(folder: Path, resources: Mapping[str, Any], count: int) -> Iterator[str]:
    own, throttle = resources["slurm"], resources["slurm"]["throttle"]
    nodes, processes, gpus = own["nodes"], resources["processes"], resources["gpus"]
    yield f"--job-name={NAME}{folder.name}"
    yield f"--array=0-{count - 1}" + (f"%{throttle}" if throttle else "")
    yield f'--output="{folder}/%a.out"'
    yield "--open-mode=append"
    yield f"--time={own['minutes']}"
    yield f"--signal=B:USR1@{own['lead_s']}"
    yield "--requeue"
    yield f"--nodes={nodes}"
    yield "--ntasks-per-node=1"
    yield f"--cpus-per-task={processes // nodes * resources['threads']}"
    if gpus:
        kind = f"gpu:{own['gpu_type']}" if own["gpu_type"] else "gpu"
        yield f"--gres={kind}:{gpus // nodes}"
    if own["memory"]:
        yield f"--mem={own['memory']}"
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        if own[name] is not None:
            yield f"--{name}={own[name]}"
