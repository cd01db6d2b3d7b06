"""``python -m runners``: what would run, what ran, and an end to what runs. No torch."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ablate.contract.errors import UserError
from runners import view
from runners.plan import plan_line
from runners.status import cancel, status

EXAMPLES = """examples:
  python -m runners plan objective=epg,pepg estimator=elbo,trajectory sampler=ode,sde seed=0,1
  python -m runners plan +sweep=demo
  python -m runners status
  python -m runners cancel 1a2b3c4d

A dead, failed or stopped run goes on when the command that started it is repeated.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runners",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path(os.environ.get("RUNS_DIR", "runs")),
        help="folder of the runs [%(default)s]",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    dry = commands.add_parser("plan", help="table of the runs and refusals of a grid; starts nothing")
    dry.add_argument("overrides", nargs="*", help="as for python -m ablate -m; values may be comma lists")
    commands.add_parser("status", help="state, iteration, reward and device-hours of every run")
    stop = commands.add_parser("cancel", help="ask live runs to save and stop")
    stop.add_argument("runs_named", nargs="+", metavar="run", help="the 8 hex digits of a run")
    return parser


def main() -> int:
    """Entry point; 1 after a mistake, told in one line."""
    pasted = ("-m", "--multirun")  # a grid's command line may be pasted after `plan`
    arguments = _parser().parse_args([word for word in sys.argv[1:] if word not in pasted])
    out = view.console()
    try:
        if arguments.command == "plan":
            items = plan_line(arguments.overrides)
            out.print(view.show_plan(items))
            for line in view.lacking(items):
                out.print(line, soft_wrap=True)
        elif arguments.command == "status":
            out.print(status(arguments.runs))
        else:
            for name in arguments.runs_named:
                out.print(cancel(arguments.runs, name))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
