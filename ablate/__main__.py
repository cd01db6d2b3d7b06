"""``python -m ablate``: compose, refuse, then train here, or hand a grid to a launcher.

Nothing here imports torch until a run has been planned; a mistake costs a second.
"""

from __future__ import annotations

import os
import sys

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ablate.contract import files
from ablate.contract.errors import IncompatibleRun, UserError
from ablate.contract.keys import ITERATION
from ablate.contract.rundir import last_row
from runners import process, submit
from runners.compose import COMPOSER_ERRORS, CONF, PRIMARY, composing, one_line
from runners.plan import Run, key_of, plan
from runners.register import register
from runners.submit import Fate

STOPPED = "stopped before it was done; repeat the command to go on"
FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's own switch: its errors reach us as exceptions, not as printed pages


@hydra.main(version_base="1.3", config_path=str(CONF), config_name=PRIMARY)
def here(_: DictConfig) -> None:
    """Hydra's task function: the one run of this command line, in this process."""
    launcher = HydraConfig.get().runtime.choices.get("hydra/launcher")
    if launcher not in ("local", "basic"):
        raise SystemExit(f"error: hydra/launcher={launcher} takes grids; add -m, for a single run too")
    try:
        train_here([str(override) for override in HydraConfig.get().overrides.task])
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


def train_here(overrides: list[str]) -> None:
    """Plan, snapshot and train one run.

    Raises:
        IncompatibleRun: its parts do not fit together.
        UserError: a typo, a file or checkpoint that is not here, a run that somebody else holds, a failure
            the trainer explains, or a stop.
    """
    (item,) = plan([overrides])
    if not isinstance(item, Run):
        raise IncompatibleRun("; and ".join(item.reasons))
    directory, fate = item.directory, submit.fate(item)
    if fate is Fate.LIVE:
        raise UserError(directory.taken())
    if fate is Fate.DONE:
        submit.name(item)
        print(f"{directory.root} is done already; change an override, or remove it to run it again")
        return
    files.check(item.config)
    submit.snapshot(item)
    print(f"{directory.root}: {fate.value}", flush=True)
    resources = item.config["resources"]
    if resources["processes"] > 1:
        if process.attend(directory, resources):
            raise UserError(directory.read_state().get("error") or STOPPED)
        return
    os.environ.update(process.threads(resources))
    from ablate.train import run  # only now: torch reads the environment when it loads

    outcome = run(directory)
    print(f"{directory.root}: {outcome} at iteration {last_row(directory.metrics).get(ITERATION, 0)}")
    if outcome != "done":
        raise UserError(STOPPED)


def main() -> None:
    """Entry point: one line for a user's mistake, never a traceback."""
    register()
    arguments = get_args_parser().parse_args()
    flags = (arguments.help, arguments.hydra_help, arguments.cfg, arguments.info, arguments.shell_completion)
    named = any(key_of(override) == "sweep" for override in arguments.overrides)
    if named and not arguments.multirun and not any(flags):
        sys.argv.insert(1, "--multirun")  # a named grid is a grid
    if FULL_ERROR in os.environ:
        here()
        return
    os.environ[FULL_ERROR] = "1"
    try:
        here()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except COMPOSER_ERRORS as error:
        raise SystemExit(f"error: {_explained(arguments.overrides, error)}") from None
    except BrokenPipeError:  # the reader of our output went away, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _explained(overrides: list[str], error: Exception) -> str:
    try:
        with composing() as composer:
            for cell in composer.product(overrides):
                composer.cell(cell)
    except UserError as told:
        return str(told)
    return one_line(error)


if __name__ == "__main__":
    main()
