"""Which roles follow theta, how fast, and which of them draws the rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from ablate.protocols import Policy, Schedule
from ablate.types import Role

Turn = Literal["step", "iteration"]


class Follower(Protocol):
    """How one role moves."""

    @property
    def decay(self) -> Schedule: ...

    @property
    def per(self) -> Turn: ...

    @property
    def sources(self) -> frozenset[Role]:
        """Every role it ever follows."""

    def source_at(self, step: int) -> Role:
        """The role it follows at an optimizer step."""


@dataclass(frozen=True)
class Snapshot:
    """``role <- d role + (1 - d) source`` with ``d = decay(optimizer step)``.

    Attributes:
        per: after every optimizer step, or once at the end of an iteration.
    """

    decay: Schedule
    per: Turn
    source: Role = "theta"

    def __post_init__(self) -> None:
        check_turn(self.per)

    @property
    def sources(self) -> frozenset[Role]:
        return frozenset({self.source})

    def source_at(self, step: int) -> Role:
        del step
        return self.source


def check_turn(per: str) -> None:
    """Raises ValueError unless ``per`` is a turn."""
    if per not in ("step", "iteration"):
        raise ValueError(f"snapshot per = {per!r} must be 'step' or 'iteration'")


@dataclass(frozen=True)
class Snapshots:
    """The roles besides theta and ref.

    Attributes:
        rollout: the role that draws; theta, or one of ``roles``.
        roles: the snapshots by name.

    Raises:
        ValueError: the drawing role or a source has no weights of its own, or a name is taken.
    """

    rollout: Role
    roles: Mapping[Role, Follower]

    def __post_init__(self) -> None:
        taken = {"theta", "ref"} & set(self.roles)
        if taken:
            raise ValueError(f"snapshots.roles names {sorted(taken)}, which always exist; choose other names")
        if self.rollout not in {"theta", *self.roles}:
            raise ValueError(
                f"snapshots.rollout = {self.rollout} is no role; choose theta or one of {sorted(self.roles)}"
            )

        for role, snapshot in self.roles.items():
            for source in snapshot.sources - {"theta", *self.roles}:
                raise ValueError(
                    f"snapshots.roles.{role}.source = {source} is no role that moves; "
                    f"choose theta or one of {sorted(self.roles)}"
                )

    def follow(self, policy: Policy, step: int, turn: Turn) -> None:
        """Let every role that moves at this turn follow its source."""
        for role, snapshot in self.roles.items():
            if snapshot.per == turn:
                policy.blend(role, snapshot.source_at(step), snapshot.decay(step))
