"""While a sweep runs, another process looks for cells that take the same steps. No torch here."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import IO

from rich.console import Console

from ablate.equivalences.cells import updates
from runners import process
from runners.plan import Run

TIME_S = 60.0  # a sweep that ends sooner waits this long for the answer, counted from its start
HINT = "python -m ablate.equivalences, with the same overrides, shows the numbers"
_COMMAND = (sys.executable, "-m", "ablate.equivalences", "--planned", "--json")


@dataclass
class Watch:
    """A search under way; it is asked often and answers once."""

    out: Console
    child: subprocess.Popen[bytes] | None = None
    answer: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    began: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Print what was found, if the search has ended."""
        if self.child is None or self.child.poll() is None:
            return
        code, self.child = self.child.returncode, None
        self.answer.seek(0)
        text = self.answer.read().decode(errors="replace")
        for line in _warnings(text) if code == 0 else [_failed(text)]:
            self.out.print(line, style="yellow", markup=False, soft_wrap=True)

    def finish(self) -> None:
        """Wait for the answer as long as is left of TIME_S."""
        while self.child is not None and time.monotonic() < self.began + TIME_S:
            self.look()
            time.sleep(process.PAUSE_S)
        if self.child is not None:
            self.end()
            self.out.print(f"cells not compared within {TIME_S:.0f} s; {HINT}", markup=False)

    def end(self) -> None:
        """Give up the search."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None


def watch(runs: Sequence[Run], most: int, out: Console) -> Watch:
    """Search among at most ``most`` different updates, in a process of low priority; 0 never searches."""
    number = len(updates(runs)) if most else 0
    if number > most:
        out.print(f"{number} different updates, more than {most}, are not compared; {HINT}", markup=False)
    if not 2 <= number <= most:
        return Watch(out)
    found = Watch(out)
    with tempfile.TemporaryFile("w+") as asked:
        json.dump([{f.name: getattr(run, f.name) for f in fields(run)} for run in runs], asked)
        asked.seek(0)
        found.child = subprocess.Popen(
            _COMMAND, stdin=asked, stdout=found.answer, stderr=subprocess.STDOUT, start_new_session=True
        )
    return found


def _warnings(text: str) -> Iterator[str]:
    pairs = [pair for pair in json.loads(text)["pairs"] if pair["verdict"] == "equivalent"]
    for pair in pairs:
        scale = "" if abs(pair["on"]["scale"] - 1) < 1e-6 else f", up to the factor {pair['on']['scale']:.5g}"
        yield f"warning: '{pair['a']}' takes the same steps as '{pair['b']}'{scale}: run one of them"
    if pairs:
        yield f"warning: {HINT}"


def _failed(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"cells not compared: {lines[-1] if lines else 'the search ended without a word'}"
