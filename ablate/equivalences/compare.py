"""Classes of updates that agree, and what that says of their runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import torch
from torch import Tensor

from ablate.equivalences.cells import SIZES_IN_MEMORY, Update, differences
from ablate.equivalences.probe import Probe

TOLERANCE: Final = 1e-6  # advantages and multipliers are rounded to fp32, at about 1e-7
_NOTHING: Final = 1e-12  # the largest gradient entry of a cell that does not learn


class Verdict(Enum):
    """What two agreeing updates mean, the strongest first."""

    EQUIVALENT = "equivalent"
    OTHER_RUN = "same update, other run"
    ON_POLICY = "equal on-policy only"


@dataclass(frozen=True)
class Agreement:
    """How gradient a fits ``scale`` times gradient b: their cosine, and the largest error over max |a|."""

    cosine: float
    scale: float
    error: float

    @property
    def exact(self) -> bool:
        return self.scale > 0 and self.error <= TOLERANCE


@dataclass(frozen=True)
class Pair:
    """Two updates of a grid, and in what the most alike of their runs differ beside them.

    ``off`` is where they agree least; None if one of them has no gradient there.
    """

    a: Update
    b: Update
    verdict: Verdict
    on: Agreement
    off: Agreement | None
    differ: list[str]


@dataclass(frozen=True)
class Measured:
    """An update with its probe."""

    update: Update
    probe: Probe


def agreement(a: Tensor, b: Tensor) -> Agreement | None:
    """How two gradients [W] agree; None where one is nothing, or not finite."""
    if not (learns(a) and learns(b)):
        return None
    scale = a.dot(b) / b.dot(b)
    error = (a - scale * b).abs().max() / a.abs().max()
    return Agreement(float(a.dot(b) / (a.norm() * b.norm())), float(scale), float(error))


def learns(gradient: Tensor) -> bool:
    """Whether there is a gradient at all."""
    return len(gradient) > 0 and bool(gradient.abs().max() > _NOTHING)


def pairs(measured: Sequence[Measured]) -> list[Pair]:
    """Every update that agrees with an earlier one, once, with the verdict; the strongest verdicts first."""
    found = []
    same = _classes(measured, _same)
    for members in same:
        found += list(_runs_of_one_update(members))
    for firsts in _classes([members[0] for members in same], _same_on_policy):
        found += [_pair(member, firsts[0], Verdict.ON_POLICY) for member in firsts[1:]]
    return sorted(found, key=lambda pair: list(Verdict).index(pair.verdict))


def _classes(measured: Sequence[Measured], alike: Callable[[Probe, Probe], bool]) -> list[list[Measured]]:
    classes: list[list[Measured]] = []
    for item in measured:
        own = next((members for members in classes if alike(item.probe, members[0].probe)), None)
        if own is None:
            classes.append([item])
        else:
            own.append(item)
    return classes


def _same_on_policy(a: Probe, b: Probe) -> bool:
    on = agreement(a.on, b.on)
    return on is not None and on.exact


def _same(a: Probe, b: Probe) -> bool:
    """One scale everywhere, and samplers that stay the same as a run goes on."""
    found = [agreement(a.on, b.on), *_off_policy(a, b)]
    exact = [told for told in found if told is not None and told.exact]
    if len(exact) < max(2, len(found)):
        return False
    steady = all(abs(math.log(told.scale / exact[0].scale)) <= 10 * TOLERANCE for told in exact)
    return steady and a.drawn.shape == b.drawn.shape and torch.allclose(a.drawn, b.drawn, 1e-9, 1e-9)


def _off_policy(a: Probe, b: Probe) -> list[Agreement | None]:
    """At each distance but those where neither is finite."""
    regimes = zip(a.off, b.off, strict=True)
    return [agreement(one, other) for one, other in regimes if len(one) or len(other)]


def _furthest(a: Probe, b: Probe) -> Agreement | None:
    found = _off_policy(a, b)
    known = [told for told in found if told is not None]
    return max(known, key=lambda told: told.error, default=None) if len(known) == len(found) else None


def _runs_of_one_update(members: Sequence[Measured]) -> Iterator[Pair]:
    for number, member in enumerate(members[1:], start=1):
        told = (_pair(member, other, Verdict.EQUIVALENT) for other in members[:number])
        twin = next((pair for pair in told if not pair.differ), None)
        yield twin or _pair(member, members[0], Verdict.OTHER_RUN)


def _pair(a: Measured, b: Measured, verdict: Verdict) -> Pair:
    on = agreement(a.probe.on, b.probe.on)
    assert on is not None
    ignored = () if a.probe.whole_groups or b.probe.whole_groups else SIZES_IN_MEMORY
    differ = differences(a.update, b.update, ignored)
    return Pair(a.update, b.update, verdict, on, _furthest(a.probe, b.probe), differ)
