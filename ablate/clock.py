"""Device-hours: rollout, reward and update, on all processes; nothing else counts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from ablate.distributed import Distributed

COUNTED = ("rollout", "reward", "update")


class Clock:
    """Seconds per phase of the current iteration, and cumulative device-hours.

    Attributes:
        gpu_hours: sum over processes of counted seconds / 3600; goes into the checkpoint.
    """

    def __init__(self, distributed: Distributed, gpu_hours: float = 0.0) -> None:
        self.gpu_hours = gpu_hours
        self._distributed = distributed
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._began = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block, device-synchronised at both ends."""
        self._distributed.synchronize()
        began = time.perf_counter()
        yield
        self._distributed.synchronize()
        self._seconds[name] += time.perf_counter() - began

    def close_iteration(self) -> dict[str, float]:
        """Seconds by phase since the last call, "other" being the rest.

        Adds the counted ones, summed over processes, to ``gpu_hours``.
        """
        seconds = {name: self._seconds[name] for name in (*COUNTED, "eval")}
        now = time.perf_counter()
        seconds["other"] = now - self._began - sum(seconds.values())
        counted = sum(seconds[name] for name in COUNTED)
        self.gpu_hours += self._distributed.total(counted) / 3600
        self._seconds.clear()
        self._began = now
        return seconds
