"""``runs/.sweeps/<name>.json``: which runs a sweep asked for, and which cells were refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from ablate.contract.errors import UserError
from analysis.spec import did_you_mean


@dataclass(frozen=True)
class Refusal:
    """Cells that cannot exist for the same reasons; ``cells`` is {overrides: seeds}.

    The overrides are without the seed, and without those that all cells of the sweep share.
    """

    reasons: tuple[str, ...]
    cells: Mapping[tuple[str, ...], int]


@dataclass(frozen=True)
class Sweep:
    """``signatures`` in the order asked for, each once; ``cells`` counts all that were asked for."""

    name: str
    signatures: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    cells: int

    @property
    def refused(self) -> int:
        """Cells that were refused, every seed counted."""
        return sum(sum(refusal.cells.values()) for refusal in self.refusals)


def read_sweep(runs: Path, name: str) -> Sweep:
    """The record of a sweep.

    Raises:
        UserError: there is none of that name, or it is damaged.
    """
    path = runs / ".sweeps" / f"{name}.json"
    try:
        record = json.loads(path.read_text())
        cells = record["cells"]
        signatures = tuple(dict.fromkeys(cell["signature"] for cell in cells if cell.get("signature")))
        refused = [(tuple(cell["overrides"]), tuple(cell["refused"])) for cell in cells if cell["refused"]]
    except FileNotFoundError as error:
        known = sorted(other.stem for other in path.parent.glob("*.json"))
        raise UserError(
            f"{runs} has no record of a sweep {name}{did_you_mean(name, known)} (recorded: "
            f"{', '.join(known) or 'none'}); run it first: python -m ablate +sweep={name}, "
            "or name another folder with runs=<folder>"
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; plan the sweep again: python -m ablate +sweep={name}") from error
    shared = set.intersection(*(set(cell["overrides"]) for cell in cells)) if len(cells) > 1 else set()
    return Sweep(name, signatures, _by_reason(refused, shared), len(cells))


def _by_reason(
    refused: Sequence[tuple[tuple[str, ...], tuple[str, ...]]], shared: Set[str]
) -> tuple[Refusal, ...]:
    found: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {}
    for overrides, reasons in refused:
        cell = tuple(text for text in overrides if not text.startswith("seed=") and text not in shared)
        found.setdefault(reasons, Counter())[cell] += 1
    return tuple(Refusal(reasons, cells) for reasons, cells in found.items())
