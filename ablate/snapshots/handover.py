"""A role that follows one source first and another later."""

from __future__ import annotations

from dataclasses import dataclass

from ablate.protocols import Schedule
from ablate.snapshots.snapshots import Turn, check_turn
from ablate.types import Role


@dataclass(frozen=True)
class Handover:
    """``role <- d role + (1 - d) source``, source = ``first`` up to optimizer step ``after``, then ``then``.

    DGPO draws with theta for 200 steps (GenEval: 500) and with its average from then on (arXiv:2510.08425,
    its code's ``switch_ema_ref``): a drawing role that copies the one and then the other.

    Attributes:
        per: as for a snapshot.

    Raises:
        ValueError: ``after < 0``, or an unknown turn.
    """

    decay: Schedule
    per: Turn
    first: Role
    then: Role
    after: int

    def __post_init__(self) -> None:
        check_turn(self.per)
        if self.after < 0:
            raise ValueError(f"snapshot after = {self.after} must not be negative; 0 hands over at once")

    @property
    def sources(self) -> frozenset[Role]:
        return frozenset({self.first, self.then})

    def source_at(self, step: int) -> Role:
        return self.first if step <= self.after else self.then
