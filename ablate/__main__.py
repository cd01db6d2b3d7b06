"""``python -m ablate``: compose, refuse, then train here, or hand a grid to a launcher.

Nothing here imports torch until a run has been planned; a mistake costs a second.
"""

from __future__ import annotations

import os
import subprocess
import sys

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ablate.contract.errors import IncompatibleRun, UserError
from runners import process, submit
from runners.compose import COMPOSER_ERRORS, CONF, PRIMARY, composing, one_line
from runners.plan import Run, key_of, plan
from runners.register import register
from runners.submit import Fate

FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's own switch: its errors reach us as exceptions, not as printed pages


@hydra.main(version_base="1.3", config_path=str(CONF), config_name=PRIMARY)
def here(_: DictConfig) -> None:
    """Hydra's task function: the one run of this command line, in this process."""
    try:
        train_here([str(override) for override in HydraConfig.get().overrides.task])
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


def train_here(overrides: list[str]) -> None:
    """Plan, snapshot and train one run.

    Raises:
        IncompatibleRun: its parts do not fit together.
        UserError: a typo, a run that somebody else holds, or a failure the trainer explains.
        SystemExit: a trainer of several processes failed; its exit code.
    """
    (item,) = plan([overrides])
    if not isinstance(item, Run):
        raise IncompatibleRun("; and ".join(item.reasons))
    directory, fate = item.directory, submit.fate(item)
    if fate is Fate.LIVE:
        pid = directory.read_state().get("pid", "?")
        cure = f"wait for it, or stop it with: python -m runners cancel {directory.name}"
        raise UserError(f"{directory.root} belongs to a live process (pid {pid}); {cure}")
    if fate is Fate.DONE:
        submit.name(item)
        print(f"{directory.root} is done already; change an override, or remove it to run it again")
        return
    submit.snapshot(item)
    print(f"{directory.root}: {fate.value}", flush=True)
    os.environ.update(process.threads(item.config["resources"]))
    processes = int(item.config["resources"]["processes"])
    if processes > 1:
        code = subprocess.run(process.command(directory, processes)).returncode
        if code:
            raise SystemExit(code)
        return
    from ablate.train import run  # only now: torch reads the environment when it loads

    run(directory)


def main() -> None:
    """Entry point: one line for a user's mistake, never a traceback."""
    register()
    arguments = get_args_parser().parse_args()
    flags = (arguments.help, arguments.hydra_help, arguments.cfg, arguments.info, arguments.shell_completion)
    if any(key_of(override) == "sweep" for override in arguments.overrides) and not any(flags):
        sys.argv[1:] = ["--multirun", *(word for word in sys.argv[1:] if word not in ("-m", "--multirun", "-r", "--run"))]
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
