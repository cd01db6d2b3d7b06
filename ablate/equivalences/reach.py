"""Which roles can ever have different weights when a run computes a gradient, told from its snapshots."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

from ablate.protocols import Policy
from ablate.snapshots.snapshots import Snapshots
from ablate.types import Role

DRAWER = "the drawing role when it drew"
MOST_ITERATIONS = 1000  # published switches of schedule are below it


class _Numbers:
    """A policy whose weights are one number per role; theta takes a random walk."""

    def __init__(self, roles: Sequence[Role]) -> None:
        self.value = dict.fromkeys(("theta", "ref", *roles), 0.0)
        self._chance = random.Random(0)

    def move(self) -> None:
        self.value["theta"] += self._chance.random()

    def blend(self, role: Role, source: Role, decay: float) -> None:
        if decay == 0:
            self.value[role] = self.value[source]
        else:
            self.value[role] += (1 - decay) * (self.value[source] - self.value[role])


def always_together(snapshots: Snapshots, updates: int, iterations: int) -> dict[str, str]:
    """Each role, and DRAWER, to a name that it shares with the roles whose weights are always its own.

    With old copied at every iteration and one update in each, ``{"theta": "theta", "old": "theta", ..}``: no
    gradient of the run is ever off-policy.

    Args:
        updates: optimizer steps per iteration.
        iterations: of the run; at most MOST_ITERATIONS are played.
    """
    policy, step = _Numbers(list(snapshots.roles)), 0
    seen: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(min(iterations, MOST_ITERATIONS)):
        drawer = policy.value[snapshots.rollout]
        for _ in range(updates):
            for name, value in {**policy.value, DRAWER: drawer}.items():
                seen[name].append(value)
            policy.move()
            step += 1
            snapshots.follow(cast(Policy, policy), step, "step")
        snapshots.follow(cast(Policy, policy), step, "iteration")
    return _named(seen)


def _named(seen: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Equal histories get the name of the first in an order that does not hang on which roles there are."""
    ordered = ["ref", "theta", "old", *sorted(set(seen) - {"ref", "theta", "old"})]
    first: dict[tuple[float, ...], str] = {}
    return {name: first.setdefault(tuple(seen[name]), name) for name in ordered if name in seen}
