"""One live line per run on a terminal; nothing elsewhere."""

from __future__ import annotations

import time

from tqdm import tqdm

_FORMAT = "{percentage:3.0f}%|{bar:24}| {desc}"


class ProgressLine:
    """Share of the budget, iteration, reward, device-hours and time left."""

    def __init__(self, name: str, *, enabled: bool, spent: float) -> None:
        # disable=None lets tqdm be silent where stderr is no terminal
        self._bar = tqdm(
            total=1.0,
            initial=min(1.0, spent),
            desc=name,
            bar_format=_FORMAT,
            disable=None if enabled else True,
        )
        self._name, self._began, self._first = name, time.monotonic(), spent

    def eta_s(self, spent: float) -> float:
        """Seconds left at this run's pace so far."""
        done = max(spent - self._first, 1e-9)
        return (time.monotonic() - self._began) * max(0.0, 1 - spent) / done

    def show(self, *, spent: float, iteration: int, reward: float, gpu_hours: float) -> None:
        left = int(self.eta_s(spent))
        self._bar.set_description_str(
            f"{self._name}  iteration {iteration}  reward {reward:.3f}  {gpu_hours:.4f} device-h  "
            f"{left // 60}:{left % 60:02d} left",
            refresh=False,
        )
        self._bar.update(min(1.0, spent) - self._bar.n)

    def close(self) -> None:
        self._bar.close()
