"""Train one run directory, or go on where it was stopped: ``python -m ablate.train runs/<signature>``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ablate import build
from ablate.contract import compat, keys
from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir, last_row
from ablate.distributed import Distributed
from ablate.evaluate import Evaluator
from ablate.loop import Lab, train
from ablate.record import Recorder

EMBEDDINGS = ".embeddings"  # beside the run directories: all runs of a folder share them


def run(directory: RunDir) -> str:
    """Train until the budget is spent; returns "done" or "stopped".

    Raises:
        UserError: the config cannot run, the directory is another process's, or the run diverged; state.json
            has the reason and everything recorded before is kept.
    """
    config = directory.read_config()
    torch.set_num_threads(int(config["resources"]["threads"]))
    distributed = Distributed(int(config["resources"]["gpus"]))
    try:
        with directory.owned() if distributed.is_main else nullcontext(), _state(directory, distributed):
            return _train(directory, config, distributed)
    finally:
        distributed.close()


def _train(directory: RunDir, config: Mapping[str, Any], distributed: Distributed) -> str:
    _same_device(directory, config["resources"], distributed)
    lab = assemble(directory, config, distributed)
    recorder = Recorder(directory, config) if distributed.is_main else None
    try:
        with _stop_signals() as stopped:
            outcome = train(lab, recorder, stopped)
    finally:
        if recorder is not None:
            recorder.close()
    if distributed.is_main:
        directory.update_state(state=outcome)
    return outcome


def _same_device(directory: RunDir, resources: Mapping[str, Any], distributed: Distributed) -> None:
    """Hours of two kinds of device do not add up, and neither do their bits.

    Raises:
        UserError: the run began on another kind, and ``resources.any_device`` does not allow that.
    """
    before = last_row(directory.metrics).get(keys.DEVICE, distributed.device_name)
    if before != distributed.device_name and not resources.get("any_device"):
        raise UserError(
            f"{directory.root} began on {before!r} and this is {distributed.device_name!r}; go on there, or "
            "say resources.any_device=true: rows name their device, and the bits differ"
        )


def assemble(directory: RunDir, config: Mapping[str, Any], distributed: Distributed) -> Lab:
    """All objects of one run; what cannot fit is refused before weights are loaded."""
    parts = build.light(config)
    settings, sampler = build.evaluation(config)
    evaluator = Evaluator(settings, sampler, parts.prompts, parts.reward, distributed)
    prompts = [prompt.text for prompt in (*parts.prompts.train, *parts.prompts.test)]
    policy = build.policy(config, parts, distributed)
    policy.prepare(prompts[distributed.rank :: distributed.world], directory.root.parent / EMBEDDINGS)
    distributed.gather_objects([])  # wait: what another process encodes is there from now on
    return Lab(
        run=directory,
        seed=int(config["seed"]),
        parts=parts,
        policy=policy,
        learner=build.learner(config, parts, policy, distributed),
        evaluator=evaluator,
        batch=build.batch_sizes(config),
        budget=build.budget(config),
        preflight=build.preflight(config),
        promises=compat.promises(config),
        checkpoint_every=int(config["checkpoint"]["every_iterations"]),
        distributed=distributed,
    )


@contextmanager
def _state(directory: RunDir, distributed: Distributed) -> Iterator[None]:
    """Say in state.json that the run runs, and if it fails, why."""
    if distributed.is_main:
        directory.update_state(state="running", error=None)
    try:
        yield
    except BaseException as error:
        if distributed.is_main:
            directory.update_state(state="failed", error=f"{type(error).__name__}: {error}".splitlines()[0])
        raise


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM, SIGUSR1 (a scheduler's warning) and Ctrl-C ask to save and end after this iteration.

    A second Ctrl-C insists.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python -m ablate.train runs/<signature>\n\n" + str(__doc__))
        return 0 if "--help" in sys.argv or "-h" in sys.argv else 2
    try:
        outcome = run(RunDir(Path(sys.argv[1])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if outcome == "done" else 130


if __name__ == "__main__":
    sys.exit(main())
