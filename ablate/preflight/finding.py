"""What a check found: a name, a number, what the number must be, and a cure."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check's answer on one process.

    Attributes:
        name: of the check.
        what: what was measured.
        number: the measurement; None where this run has nothing to measure.
        rule: what the number must be.
        ok: whether it is.
        cure: what to do if it is not.
    """

    name: str
    what: str
    number: float | None
    rule: str
    ok: bool
    cure: str

    def line(self) -> str:
        """Name, value, rule and cure, for a user."""
        value = "unknown" if self.number is None else f"{self.number:.3g}"
        return f"{self.name}: {self.what} is {value}, it must be {self.rule}; {self.cure}"

    def record(self) -> dict[str, object]:
        """As JSON can say it: a number that is not finite becomes a word."""
        odd = self.number is not None and not math.isfinite(self.number)
        return vars(self) | ({"number": str(self.number)} if odd else {})


def absent(name: str, what: str) -> Finding:
    """There is nothing to measure."""
    return Finding(name, what, None, "", True, "")
