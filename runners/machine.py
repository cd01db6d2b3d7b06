"""What this machine can run at a time: cores, or GPUs where a run asks for them. No torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ablate.contract.errors import UserError

Resources = Mapping[str, Any]


@dataclass(frozen=True)
class Seat:
    """What one run occupies."""

    cores: int
    gpus: tuple[str, ...]


@dataclass
class Machine:
    """Free cores and GPUs; a run takes a seat and gives it back."""

    cores: int
    gpus: list[str]
    taken: list[Seat] = field(default_factory=list)

    def check(self, resources: Resources) -> None:
        """Refuse what would wait for ever.

        Raises:
            UserError: the run asks for more GPUs than there are.
        """
        if resources["gpus"] > len(self.gpus):
            raise UserError(
                f"resources.gpus = {resources['gpus']} but this machine shows {len(self.gpus)}; "
                "choose resources.gpus=0 for the CPU, or another hydra/launcher"
            )

    def take(self, resources: Resources) -> Seat | None:
        """A seat for the run, or None while there is none. ``slots`` counts runs, not cores."""
        slots, gpus = resources["slots"], int(resources["gpus"])
        cores = 0 if gpus or slots is not None else int(resources["processes"]) * int(resources["threads"])
        full = slots is not None and len(self.taken) >= slots
        wide = cores > self.cores - sum(seat.cores for seat in self.taken)
        if full or len(self.gpus) < gpus or (wide and self.taken):  # one too wide for the machine runs alone
            return None
        seat = Seat(cores, tuple(self.gpus[:gpus]))
        self.gpus = self.gpus[gpus:]
        self.taken.append(seat)
        return seat

    def give_back(self, seat: Seat) -> None:
        """Free a seat."""
        self.taken.remove(seat)
        self.gpus.extend(seat.gpus)


def this_machine() -> Machine:
    """The cores this process may use, and the GPUs it can see."""
    return Machine(len(os.sched_getaffinity(0)), list(_visible_gpus()))


def _visible_gpus() -> Sequence[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    except (FileNotFoundError, subprocess.CalledProcessError):  # no driver, no GPU
        return []
