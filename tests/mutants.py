"""Mutation check: plant every bug of ``mutate`` in every part, one at a time, and see whether a test fails.

``make mutants`` takes all; ``python -m tests.mutants objectives/nft --tests objectives`` takes some files,
and the tests whose file is named so. A mutant is tried by the tests that run its function, cheapest first, in
a process forked before any mutated package was imported. Left out are slow tests and files that launch runs.

Mutants that no test could ever see stand in tests/equivalent_mutants.yaml with the reason. They are tried
too: an entry that dies, or is no mutant any more, is an error. Exits with 1 below 95 % in all, or if an
objective's sign, stop-gradient or normaliser mutant survives.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import yaml
from _pytest.runner import runtestprotocol

sys.path.insert(0, str(Path(__file__).parent))
from mutate import NORM, SIGN, STOP, Mutant, mutants  # noqa: E402

ROOT = Path(__file__).parent.parent
PACKAGES = ("objectives", "regularizers", "advantages", "estimators", "samplers")
SLOW_HELPERS = ("from running import", "from commands import", "import mutants")  # these train or launch
STRICT = (SIGN, STOP, NORM)  # of these every mutant of an objective must die
GOAL = 0.95
Function = tuple[str, int]  # file and first line
Killers = Counter[tuple[str, str]]  # how many mutants of a file a test file killed


@dataclass(frozen=True)
class Test:
    """A test of the unchanged code: its file, its CPU seconds, and the functions it ran."""

    name: str
    file: str
    seconds: float
    ran: frozenset[Function]


@dataclass
class Plugin:
    """Takes pytest over before collection; every mutant forks from there."""

    root: Path
    targets: Sequence[Path]
    tests: Sequence[str]
    found: dict[Mutant, bool] = field(default_factory=dict)  # whether it died
    killers: Killers = field(default_factory=Counter)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        if "hypothesis" in sys.modules:  # after conftest has loaded its own
            sys.modules["hypothesis"].settings.load_profile("mutants")
        sources = {str(path.relative_to(self.root)): path.read_text() for path in self.targets}
        if early := [path for path in sources if _module(path) in sys.modules]:
            pytest.exit(f"error: {early} were imported before any mutant of them could be", 1)
        baseline = _baseline(session, self.root, self.tests, sources)
        for path in sorted({path for test in baseline for path, _ in test.ran})[:1]:
            nothing = Mutant(path, 1, "nothing", "", "", sources[path], None)
            if died(session, self.root, nothing, baseline, Counter()):
                pytest.exit(f"error: {path} fails although nothing was planted in it", 1)
        for path, source in sources.items():
            for mutant in mutants(path, source):
                self.found[mutant] = died(session, self.root, mutant, baseline, self.killers)
            show(path, {m: d for m, d in self.found.items() if m.path == path})
        return True


def died(
    session: pytest.Session, root: Path, mutant: Mutant, baseline: Sequence[Test], killers: Killers
) -> bool:
    """Whether a test of those that run the mutated function fails, breaks or no longer ends."""
    first, last = mutant.function or (0, 10**9)
    files: dict[str, dict[str, float]] = {}
    for test in baseline:
        if any(path == mutant.path and first <= line <= last for path, line in test.ran):
            files.setdefault(test.file, {})[test.name] = test.seconds
    order = sorted(files, key=lambda file: (-killers[mutant.path, file], sum(files[file].values())))

    def work(send: Callable[[object], None]) -> None:
        sys.meta_path.insert(0, _Planted(root, mutant))
        wanted = {name: seconds for file in tried for name, seconds in files[file].items()}
        items = [item for item in session.perform_collect(tried) if item.nodeid in wanted]
        items.sort(key=lambda item: wanted[item.nodeid])
        for item, passed, _ in _run(items):
            if not passed:
                send(item.nodeid.partition("::")[0])
                raise SystemExit(1)
        if session.testsfailed or len(items) < len(wanted):  # it cannot even be imported
            raise SystemExit(1)

    for tried in filter(None, (order[:1], order[1:])):  # what killed its neighbours, then all others at once
        code, who = _in_child(work, 30 + 5 * sum(sum(files[file].values()) for file in tried))
        killers.update((mutant.path, file) for file in who)
        if code:
            return True
    return False


def _module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


class _Planted(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports one module from a mutant's source."""

    def __init__(self, root: Path, mutant: Mutant) -> None:
        self.name, self.file, self.source = _module(mutant.path), str(root / mutant.path), mutant.source

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.file, loader=self)  # type: ignore[arg-type]

    def get_source(self, fullname: str) -> str:
        return self.source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.file, "exec")


def _run(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, bool, float]]:
    """Run tests; each with whether it passed, and its CPU seconds."""
    for item, after in zip(items, [*items[1:], None], strict=True):
        began = time.process_time()
        reports = runtestprotocol(item, log=False, nextitem=after)
        yield item, not any(report.failed for report in reports), time.process_time() - began


def _baseline(
    session: pytest.Session, root: Path, tests: Sequence[str], sources: Mapping[str, str]
) -> list[Test]:
    """All tests on the unchanged code, which must pass, with the functions each of them runs."""
    paths = {str(root / path): path for path in sources}
    ran: set[Function] = set()

    def trace(frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if code.co_filename in paths and code.co_name != "<module>":
            ran.add((paths[code.co_filename], code.co_firstlineno))

    def work(send: Callable[[object], None]) -> None:
        sys.settrace(trace)
        items, at_import = session.perform_collect([file]), set(ran)
        for item, passed, seconds in _run(items):
            send([item.nodeid, file, passed, seconds, sorted(ran | at_import)])
            ran.clear()

    rows = []
    for file in tests:
        code, found = _in_child(work, 3600)
        failing = [name for name, _, passed, *_ in found if not passed]
        if code or failing:
            pytest.exit(f"error: {file} fails on the unchanged code {failing}; mend that first", 1)
        rows += found
    return [
        Test(name, file, seconds, frozenset((path, line) for path, line in touched))
        for name, file, _, seconds, touched in rows
    ]


def _in_child(work: Callable[[Callable[[object], None]], None], cpu: float) -> tuple[int, list[Any]]:
    """Exit status of ``work`` in a forked process that may use ``cpu`` seconds, and what it sent."""
    inward, outward = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(inward)
            resource.setrlimit(resource.RLIMIT_CPU, (int(cpu) + 1, int(cpu) + 2))
            signal.alarm(20 * int(cpu) + 60)  # a deadlock uses no CPU
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            with os.fdopen(outward, "w") as pipe:
                work(lambda row: print(json.dumps(row), file=pipe))
            code = 0
        finally:
            os._exit(code)
    os.close(outward)
    with os.fdopen(inward) as pipe:
        rows = [json.loads(line) for line in pipe if line.endswith("\n")]
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), rows


def show(path: str, found: Mapping[Mutant, bool]) -> None:
    """A row of the table, and the survivors."""
    alive = [mutant for mutant, dead in found.items() if not dead]
    if not found:
        return
    print(f"{path:42s} {len(found):5d} {len(found) - len(alive):5d} {len(alive):5d}", flush=True)
    for mutant in alive:
        print(f"  {mutant}", flush=True)


def verdict(found: Mapping[Mutant, bool], equivalent: Sequence[Mapping[str, str]]) -> int:
    """Prints the sums; 1 if too many survived, or the list of equivalent mutants is wrong."""
    listed = {(e["file"], e["was"], e["becomes"]): e["reason"] for e in equivalent}
    known = {m: (m.path, m.was, m.becomes) in listed for m in found}
    files = {m.path for m in found}
    wrong = [f"dies, so it is not equivalent: {m}" for m in found if known[m] and found[m]]
    present = {(m.path, m.was, m.becomes) for m in found}
    wrong += [f"is no mutant: {key}" for key in listed if key[0] in files and key not in present]
    counted = {m: dead for m, dead in found.items() if not known[m]}
    for operator in sorted({m.operator for m in counted}):
        of = [dead for m, dead in counted.items() if m.operator == operator]
        print(f"{operator:42s} {len(of):5d} {sum(of):5d} {len(of) - sum(of):5d}")
    share = sum(counted.values()) / max(1, len(counted))
    alive = [m for m, dead in counted.items() if not dead]
    strict = [m for m in alive if "/objectives/" in m.path and m.operator in STRICT]
    print(
        f"{sum(counted.values())} of {len(counted)} mutants died, {100 * share:.1f} %; "
        f"{sum(known.values())} more are equivalent; {len(strict)} sign, stop-gradient or normaliser "
        "mutants of objectives survived"
    )
    for problem in wrong:
        print(f"error: tests/equivalent_mutants.yaml: {problem}")
    return int(share < GOAL or bool(strict) or bool(wrong))


def preload() -> None:
    """Import once what every test imports, and compose once what every collection composes."""
    for name in ("torch", "numpy", "scipy.stats", "diffusers", "hydra", "hypothesis"):
        importlib.import_module(name)
    import diffusers
    import hydra
    from hypothesis import Phase, settings

    diffusers.FlowMatchEulerDiscreteScheduler()
    composed, memo = hydra.compose, {}

    def compose(name: str, overrides: Sequence[str] = ()) -> Any:
        key = (name, tuple(overrides))
        if key not in memo:
            memo[key] = composed(name, list(overrides))
        return memo[key]

    hydra.compose = compose
    conftest = importlib.import_module("conftest")
    for group in conftest.GROUPS:
        conftest._options(group)
    search = (Phase.explicit, Phase.generate)  # a failure is enough: no smaller one is looked for
    settings.load_profile("ablate")
    settings.register_profile("mutants", phases=search, database=None)
    gc.freeze()  # pages that are never written are never copied


def check(root: Path, targets: Sequence[Path], tests: Sequence[str]) -> dict[Mutant, bool]:
    """Every mutant of the target files, with whether it died of the test files."""
    plugin = Plugin(root, targets, tests)
    absent = [
        word for name in ("xdist", "cacheprovider", "hypothesispytest") for word in ("-p", f"no:{name}")
    ]
    quiet = ("-q", "-s", "-W", "ignore", "--no-summary", "--assert=plain", f"--rootdir={root}")
    pytest.main([*quiet, *absent, "-m", "not slow and not gpu", *tests], [plugin])
    return plugin.found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", help="take only files whose path contains one of these")
    parser.add_argument("--tests", nargs="*", default=[""], help="try only test files named like these")
    chosen = parser.parse_args()
    targets = [p for name in PACKAGES for p in sorted((ROOT / "ablate" / name).glob("*.py"))]
    targets = [p for p in targets if any(part in str(p) for part in chosen.parts or [""])]
    tests = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if any(name in path.name for name in chosen.tests)
        and not any(helper in path.read_text() for helper in SLOW_HELPERS)
    ]
    preload()
    print(f"{'':42s} {'all':>5s} {'died':>5s} {'alive':>5s}")
    found = check(ROOT, targets, tests)
    listed = yaml.safe_load((ROOT / "tests" / "equivalent_mutants.yaml").read_text())
    return verdict(found, listed) if found else 1


if __name__ == "__main__":
    raise SystemExit(main())
