"""What was found in a grid, as tables for a reader and as JSON for a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from ablate.contract.errors import UserError
from ablate.equivalences.cells import Update
from ablate.equivalences.compare import TOLERANCE, Agreement, Measured, Pair, Verdict, learns, pairs
from ablate.equivalences.probe import probe
from runners import view

COLUMNS = ("cell", "same as", "on-policy", "scale", "error", "off-policy", "scale", "error", "runs differ in")
TITLES = {
    Verdict.EQUIVALENT: "equivalent: one update wherever these runs can go, and all else is equal: run one",
    Verdict.OTHER_RUN: "same update, other run: what differs decides, not the parts",
    Verdict.ON_POLICY: "equal on-policy only: the same first step, another once old has fallen behind",
}
ABSORBED = (
    "A constant scale is the advantage's unit: AdamW takes it out, but for optimizer.eps, "
    "and optimizer.grad_clip sees it."
)
_MOST_DIFFERENCES = 4


@dataclass(frozen=True)
class Report:
    """The pairs of a grid, and what could not be compared.

    Attributes:
        refused: cells of the grid that cannot exist.
        unprobed: updates whose parts or first step refuse, with the reason.
    """

    measured: Sequence[Measured]
    pairs: Sequence[Pair]
    refused: int
    unprobed: Sequence[tuple[Update, str]]

    def still(self) -> Iterator[tuple[Update, str]]:
        """Updates without a gradient, and where: they equal nothing."""
        for item in self.measured:
            regimes = {"on-policy": [item.probe.on], "off-policy": item.probe.off}
            where = [name for name, found in regimes.items() if not all(learns(g) for g in found if len(g))]
            if where:
                yield item.update, " and ".join(where)

    def as_json(self) -> dict[str, Any]:
        """All of it in plain values; agreement is null where a gradient is nothing."""
        return {
            "updates": [
                {"label": item.update.label, "runs": [run.signature for run in item.update.runs]}
                for item in self.measured
            ],
            "pairs": [_plain(pair) for pair in self.pairs],
            "without_gradient": {update.label: where for update, where in self.still()},
            "not_probed": {update.label: reason for update, reason in self.unprobed},
            "refused": self.refused,
        }

    def as_tables(self) -> Group:
        """One table per verdict, and what was left out."""
        shown = [self._table(verdict) for verdict in Verdict]
        notes = [
            f"{update.label}: no gradient {where}, so it is compared with nothing"
            for update, where in self.still()
        ]
        notes += [f"{update.label}: not probed: {reason}" for update, reason in self.unprobed]
        if any(abs(pair.on.scale - 1) > TOLERANCE for pair in self.pairs):
            notes.append(ABSORBED)
        return Group(*(part for part in shown if part is not None), *notes, self._summary())

    def _table(self, verdict: Verdict) -> Table | None:
        chosen = [pair for pair in self.pairs if pair.verdict is verdict]
        return view.table(TITLES[verdict], COLUMNS, map(_row, chosen)) if chosen else None

    def _summary(self) -> str:
        counts = {verdict: sum(pair.verdict is verdict for pair in self.pairs) for verdict in Verdict}
        told = ", ".join(f"{number} {verdict.value}" for verdict, number in counts.items())
        return (
            f"{len(self.measured)} different updates probed on mixture2d, {self.refused} cells refused; "
            f"pairs: {told}"
        )


def measure(updates: Sequence[Update], plane: Mapping[str, Any], refused: int) -> Report:
    """Probe every update on one thread, then compare. ``plane`` is the config of any cell on mixture2d."""
    torch.set_num_threads(1)
    measured, unprobed = list[Measured](), list[tuple[Update, str]]()
    for update in updates:
        try:
            measured.append(Measured(update, probe(update.config, plane)))
        except UserError as error:
            unprobed.append((update, str(error)))
    return Report(measured, pairs(measured), refused, unprobed)


def _row(pair: Pair) -> tuple[str, ...]:
    more = len(pair.differ) - _MOST_DIFFERENCES
    differ = [*pair.differ[:_MOST_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
    return (pair.a.label, pair.b.label, *_numbers(pair.on), *_numbers(pair.off), ", ".join(differ))


def _numbers(found: Agreement | None) -> tuple[str, str, str]:
    if found is None:
        return "nothing", "-", "-"
    return f"{found.cosine:.6f}", f"{found.scale:.5g}", f"{found.error:.0e}"


def _plain(pair: Pair) -> Mapping[str, Any]:
    return {
        "a": pair.a.label,
        "b": pair.b.label,
        "verdict": pair.verdict.value,
        "on": asdict(pair.on),
        "off": asdict(pair.off) if pair.off is not None else None,
        "runs_differ_in": pair.differ,
    }
