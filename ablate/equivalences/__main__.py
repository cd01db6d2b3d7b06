"""Find the cells of a grid that take the same step up to scale. Trains nothing; a second per few cells.

Every cell's learner computes its first gradient on a common batch of mixture2d, in fp64: on-policy, and with
theta and all snapshots apart as far as the cell's own schedule ever parts them. Nothing is known beforehand.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ablate.contract.errors import UserError
from ablate.equivalences.cells import updates
from runners import view
from runners.compose import composing
from runners.plan import Refused, Run, plan_line

if TYPE_CHECKING:  # torch comes last: a mistake costs no wait for it
    from ablate.equivalences.report import Report

EXAMPLES = """examples:
  python -m ablate.equivalences objective=pepg,par estimator=elbo
  python -m ablate.equivalences objective=epg,nft snapshots=on_policy,nft_fast
  python -m ablate.equivalences +sweep=table1

verdicts:
  equivalent              one positive scale apart on-policy and off-policy, samplers that draw the same all
                          run long, and nothing else differs: optimizer, budget, sizes, snapshots, seed ..
  same update, other run  one positive scale apart; what else differs is listed
  equal on-policy only    the same while old is theta, and not after that

columns: cosine, scale and largest relative error of the gradients; off-policy where they agree least.
Where snapshots and updates never part old from theta, a run has no other place to go than on-policy.
Settings that bind on no sample of the batches, such as a clip at a ratio of 100, cannot be told apart.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ablate.equivalences",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="a grid, as for python -m ablate -m or +sweep=<name>")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--planned",
        action="store_true",
        help="read planned runs from standard input, as sweeps hand them over",
    )
    return parser


def main() -> int:
    """Entry point; 1 after a mistake, told in one line."""
    pasted = ("-m", "--multirun")  # a grid's command line may be pasted here
    arguments = _parser().parse_args([word for word in sys.argv[1:] if word not in pasted])
    try:
        if arguments.planned:
            os.nice(10)  # the sweep's own cells come first
            runs, refused = [Run(**run) for run in json.load(sys.stdin)], 0
        else:
            items = plan_line(arguments.overrides)
            runs = [item for item in items if isinstance(item, Run)]
            refused = sum(isinstance(item, Refused) for item in items)
        report = _report(runs, refused)
        if arguments.json:
            print(json.dumps(report.as_json(), indent=1))
        else:
            view.console().print(report.as_tables())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _report(runs: Sequence[Run], refused: int) -> Report:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ablate.equivalences.report import measure

    with composing() as composer:
        plane = composer.cell(["policy=mixture2d"]).config
    return measure(updates(runs), plane, refused)


if __name__ == "__main__":
    sys.exit(main())
