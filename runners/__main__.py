"""``python -m runners``: what would run, what ran, and what to do about it. No torch."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from ablate.contract.errors import UserError
from runners import status, view

EXAMPLES = """examples:
  python -m runners plan objective=epg,pepg estimator=elbo,trajectory sampler=ode,sde seed=0,1
  python -m runners plan +sweep=demo
  python -m runners watch
  python -m runners logs -f 1a2b3c4d
  python -m runners cancel 1a2b3c4d
  python -m runners retry                      what failed, died or was stopped, with its own code
  python -m runners collect cluster:lab/runs   bring home what a cluster recorded

A dead, failed or stopped run also goes on, with today's code, when the command that started it is repeated.
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
    commands.add_parser("watch", help="the same, renewed until all have ended")
    logs = commands.add_parser("logs", help="the end of a run's log")
    logs.add_argument("run", help="the 8 hex digits of a run")
    logs.add_argument("-n", type=int, default=20, help="lines [%(default)s]")
    logs.add_argument("-f", "--follow", action="store_true", help="and what comes, until the run ends")
    stop = commands.add_parser(
        "cancel", help="ask live runs to save and stop, take queued ones from the queue"
    )
    stop.add_argument("runs_named", nargs="+", metavar="run", help="the 8 hex digits of a run")
    again = commands.add_parser("retry", help="go on with what failed, died or was stopped")
    again.add_argument("runs_named", nargs="*", metavar="run", help="only these")
    home = commands.add_parser("collect", help="copy run directories into the folder of the runs")
    home.add_argument("source", help="a folder of runs, or host:folder")
    home.add_argument("--all", action="store_true", help="with checkpoints and W&B files")
    commands.add_parser("sync", help="push offline W&B records")
    return parser


def main() -> int:
    """Entry point; 1 after a mistake, told in one line, or when a retried run failed."""
    pasted = ("-m", "--multirun")  # a grid's command line may be pasted after `plan`
    arguments = _parser().parse_args([word for word in sys.argv[1:] if word not in pasted])
    try:
        return _do(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _do(arguments: argparse.Namespace) -> int:
    out, runs = view.console(), arguments.runs
    if arguments.command in ("cancel", "retry", "collect", "sync"):
        return _act(arguments, out)
    match arguments.command:
        case "plan":
            from runners.plan import plan_line

            items = plan_line(arguments.overrides)
            out.print(view.show_plan(items))
            for line in view.lacking(items):
                out.print(line, soft_wrap=True)
        case "status":
            out.print(status.status(runs))
        case "watch":
            status.watch(runs)
        case "logs":
            status.logs(status.named(runs, arguments.run), arguments.n, arguments.follow)
    return 0


def _act(arguments: argparse.Namespace, out: Console) -> int:
    from runners import act  # Hydra's plugins, which a table of states needs not wait for

    runs = arguments.runs
    match arguments.command:
        case "cancel":
            for name in arguments.runs_named:
                out.print(act.cancel(runs, name))
        case "retry":
            return 0 if act.retry(runs, arguments.runs_named, out) else 1
        case "collect":
            out.print(act.collect(arguments.source, runs, arguments.all))
        case "sync":
            out.print(act.sync(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
