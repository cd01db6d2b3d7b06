"""The code a run was submitted with, in ``runs/.code/<digest>/``: later edits change no queued job. No torch.

One copy is shared by all runs of the same code. ``<digest>.patch`` beside it: what was not committed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from ablate.contract.rundir import RunDir, write_text

ROOT = Path(__file__).resolve().parent.parent
FROZEN = ("ablate", "runners")  # what a started run imports; its config lies in its own directory
_DIGITS = 12


@cache
def digest() -> str:
    """12 hex digits naming the code as it is on disk now."""
    total = hashlib.sha256()
    for path in _files():
        body = hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        total.update(f"{path} {body}\n".encode())
    return total.hexdigest()[:_DIGITS]


def _files() -> list[Path]:
    found = (path for package in FROZEN for path in (ROOT / package).rglob("*") if path.is_file())
    return sorted(path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts)


def store(runs: Path) -> None:
    """Copy the code under ``runs`` unless it is there; half a copy is never seen under the final name."""
    target = runs / ".code" / digest()
    if target.is_dir():
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    for path in _files():
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, partial / path)
    try:
        partial.rename(target)
    except OSError:  # somebody else was faster
        shutil.rmtree(partial)
    patch = git("diff", "HEAD", "--", *FROZEN)
    if patch:
        write_text(target.with_name(f"{target.name}.patch"), patch + "\n")


def code_of(directory: RunDir) -> Path | None:
    """The stored code a run was last submitted with; None for one recorded without."""
    lines = directory.commit.read_text().splitlines() if directory.commit.exists() else []
    named = [line.partition(": ")[2] for line in lines if line.startswith("code: ")]
    stored = directory.root.resolve().parent / ".code" / named[-1] if named else None
    return stored if stored is not None and stored.is_dir() else None


def environment(code: Path | None) -> dict[str, str]:
    """What makes Python import that code, whatever folder it is started in."""
    if code is None:
        return {}
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{code}:{before}" if before else str(code), "PYTHONSAFEPATH": "1"}


def git(*words: str) -> str:
    """Output of git in our repository; empty without one, without a commit, or without git."""
    command = ["git", "-C", str(ROOT), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (subprocess.CalledProcessError, FileNotFoundError):
        return ""
