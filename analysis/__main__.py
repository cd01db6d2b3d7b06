"""python -m analysis report=demo: figures, tables and one page, from recorded runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from ablate.contract.errors import UserError
from analysis.compare import HELP as COMPARE
from analysis.compare import told
from analysis.keep import keep_runs
from analysis.page import write_page
from analysis.record import RunRecord
from analysis.report import SEED, build, choose_from, figures, table_md, write_figures, write_tables
from analysis.sides import POINTS
from analysis.sources.rundir import read_runs, run_roots
from analysis.sources.wandb_api import PREFIX, read_project
from analysis.sources.wandb_file import OFFLINE, read_files
from analysis.spec import KEYS, REPORTS, Spec, did_you_mean, make_spec, read_spec
from analysis.sweeps import Sweep, read_sweep

HELP: Final = """\
Figures, tables and one page from recorded runs; nothing is trained and no number is typed.

  python -m analysis report=demo                  the report conf/report/demo.yaml
  python -m analysis sweep=table1 threshold=0.5   the runs of a recorded sweep
  python -m analysis runs=runs                    all runs in a folder
  python -m analysis runs=1a2b3c4d,5e6f7a8b       these runs
  python -m analysis compare A B                  which is better, by how much, how sure (compare --help)

  report=NAME      known: {reports}
  sweep=NAME       runs/.sweeps/NAME.json says which runs, and which cells were refused
  runs=WHERE       with report= or sweep=: the folder of runs (default: $RUNS_DIR, else runs);
                   alone: a folder, a run, signatures with commas between, offline:FOLDER for
                   W&B's offline files below it, or wandb:entity/project for a W&B server
  out=FOLDER       files go to FOLDER/<report>/ (default: reports)
  keep=true        and FOLDER/<report>/runs/ gets the runs' rows, configs, first and last pictures, to be
                   committed: report=NAME runs=FOLDER/<report>/runs draws the same from there
  title= metric= threshold= labels= statistic= unfinished= reference= published=
                   change a key of the report, e.g. metric=partial threshold=0.6 unfinished=true

Written: index.html (one self-contained page), curve.svg, curve.png, table.md, table.tex, table.csv.
Arms, intervals and the threshold column are explained on the page."""


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, or 1 after one line that says what to mend."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP.format(reports=", ".join(sorted(path.stem for path in REPORTS.glob("*.yaml")))))
        return 0
    if arguments[0] == "compare":
        return answer(arguments[1:])
    try:
        given = parse(arguments)
        out, keep = Path(given.pop("out", "reports")), given.pop("keep", "false") == "true"
        spec, records, sweep, missing = gather(given)
        report = build(spec, records, sweep=sweep, missing=missing)
        drawn = figures(report)
        folder = out / spec.name
        paths = [*write_figures(drawn, folder), *write_tables(report, folder)]
        paths.append(write_page(report, drawn, folder))
        if keep:
            home = Path(given.get("runs", os.environ.get("RUNS_DIR", "runs")))
            paths += keep_runs(records, home, spec.sweep, folder / "runs")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}; mend it and repeat the command", file=sys.stderr)
        return 1
    for panel in report.panels:
        print(panel.headline, *panel.sentences, sep="\n")
    print("", table_md(report).split("\n\n", 1)[1], *(f"wrote {path}" for path in paths), sep="\n")
    return 0


def answer(arguments: Sequence[str]) -> int:
    """compare: the exit status, 1 after one line that says what to mend."""
    if {"-h", "--help"} & set(arguments):
        print(COMPARE)
        return 0
    known = ("report", "runs", "at", *KEYS)
    options = [word for word in arguments if word.partition("=")[0] in known and "=" in word]
    try:
        given = parse(options, known)
        point = given.pop("at", POINTS[0])
        if not {"report", "sweep", "runs"} & set(given):
            given["runs"] = os.environ.get("RUNS_DIR", "runs")
        spec, records, _, _ = gather(given)
        arms = choose_from(spec, records)
        words = [word for word in arguments if word not in options]
        print(*told(words, arms, point, np.random.default_rng(SEED)), sep="\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse(
    arguments: Sequence[str], known: Sequence[str] = ("report", "runs", "out", "keep", *KEYS)
) -> dict[str, str]:
    """{"report": "demo"} from ["report=demo"].

    Raises:
        UserError: a word without "=", or a key that means nothing.
    """
    given: dict[str, str] = {}
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise UserError(f"cannot read {word!r}: write key=value, e.g. report=demo (see --help)")
        if key not in known:
            raise UserError(f"unknown key {key}{did_you_mean(key, known)} (--help lists the keys)")
        given[key] = value
    return given


def gather(given: dict[str, str]) -> tuple[Spec, list[RunRecord], Sweep | None, list[str]]:
    """Spec, runs, sweep and the signatures it asked for that have no directory.

    Raises:
        UserError: none of report, sweep and runs is given, or one cannot be found.
    """
    where = given.get("runs")
    changes: dict[str, Any] = {key: _value(key, text) for key, text in given.items() if key in KEYS}
    home = Path(os.environ.get("RUNS_DIR", "runs"))
    if "report" in given:
        spec = read_spec(given["report"], changes)
    elif "sweep" in given:
        spec = make_spec(given["sweep"], changes)
    elif where is not None:
        title = f"Runs in {Path(where).name}" if Path(where).is_dir() else "Selected runs"
        return make_spec("adhoc", {"title": title} | changes), named_runs(where, home), None, []
    else:
        raise UserError("which runs? give report=<name>, sweep=<name> or runs=<where> (see --help)")
    folder = Path(where) if where is not None else home
    if spec.sweep is None:
        return spec, read_runs(run_roots(folder)), None, []
    sweep = read_sweep(folder, spec.sweep)
    present = [name for name in sweep.signatures if (folder / name / "config.yaml").is_file()]
    missing = [name for name in sweep.signatures if name not in present]
    return spec, read_runs(folder / name for name in present), sweep, missing


def _value(key: str, text: str) -> Any:
    try:
        return text if key in ("title", "metric", "sweep", "reference") else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"cannot read the value of {key}={text}") from error


def named_runs(where: str, home: Path) -> list[RunRecord]:
    """The runs of a folder, one run directory, signatures in ``home`` separated by commas, or those of W&B.

    Raises:
        UserError: one of them is not there.
    """
    if where.startswith(PREFIX):
        return read_project(where.removeprefix(PREFIX))
    if where.startswith(OFFLINE):
        return read_files(Path(where.removeprefix(OFFLINE)))
    if Path(where).is_dir() and not (Path(where) / "config.yaml").is_file():
        return read_runs(run_roots(Path(where)))
    roots = []
    for word in filter(None, where.split(",")):
        root = Path(word) if (Path(word) / "config.yaml").is_file() else home / word
        if not (root / "config.yaml").is_file():
            known = [path.name for path in run_roots(home)]
            raise UserError(f"no run {word} in {home}{did_you_mean(word, known)} (it holds {len(known)})")
        roots.append(root)
    return read_runs(dict.fromkeys(roots))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
