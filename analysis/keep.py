"""What of a report's runs is worth committing: rows, configs and the first and last picture; no weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml

from ablate.contract.errors import UserError
from analysis.record import RunRecord

FILES: Final = ("metrics.jsonl", "eval.jsonl", "preflight.json", "commit.txt", "overrides.txt")
OF_A_MACHINE: Final = ("host", "pid")  # of no use to whoever reads the record elsewhere


def keep_runs(records: Sequence[RunRecord], runs: Path, sweep: str | None, folder: Path) -> list[Path]:
    """Copy the runs into ``folder``, so that ``report=NAME runs=FOLDER`` draws the same from there.

    Args:
        runs: where the runs lie.   sweep: whose record goes with them.

    Returns:
        The directories written.

    Raises:
        UserError: a run has no directory (it was read from W&B).
    """
    kept = []
    for record in records:
        if record.root is None:
            raise UserError(f"{record.signature} has no run directory here; keep= copies directories only")
        target = folder / record.signature
        (target / "images").mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (record.root / name).is_file():
                shutil.copyfile(record.root / name, target / name)
        config = yaml.safe_load((record.root / "config.yaml").read_text())
        config["paths"] = {"runs": "runs"}
        (target / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        state = {key: value for key, value in record.state.items() if key not in OF_A_MACHINE}
        (target / "state.json").write_text(json.dumps(state, indent=1) + "\n")
        pictures = sorted((record.root / "images").glob("*.png"))
        for picture in {*pictures[:1], *pictures[-1:]}:
            shutil.copyfile(picture, target / "images" / picture.name)
        kept.append(target)
    if sweep is not None:
        (folder / ".sweeps").mkdir(exist_ok=True)
        shutil.copyfile(runs / ".sweeps" / f"{sweep}.json", folder / ".sweeps" / f"{sweep}.json")
    return kept
