"""Runs from W&B's offline files, ``offline-run-*/run-<id>.wandb``, read without a server.

The file is a LevelDB log: after seven bytes of header, blocks of 32 KiB that hold chunks of records, each
chunk with a checksum, a length and a kind (whole, first, middle, last). W&B stopped shipping a reader with
0.30. A run that was resumed leaves one file per start, all with the same id.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ablate.contract import keys
from ablate.contract.errors import UserError
from ablate.contract.rundir import Row
from analysis.record import RunRecord

BLOCK: Final = 1 << 15
HEADER: Final = b":W&B"
OFFLINE: Final = "offline:"
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def payloads(content: bytes) -> Iterator[bytes]:
    """The records of a file, up to where it is torn or damaged: what comes after cannot be told apart."""
    place = 7
    parts: list[bytes] = []
    while place + 7 <= len(content):
        left = BLOCK - place % BLOCK
        if left < 7:  # too short for a chunk: padding
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        chunk = content[place + 7 : place + 7 + size]
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or len(chunk) < size:
            return
        place += 7 + size
        parts = [chunk] if kind in (WHOLE, FIRST) else [*parts, chunk]
        if kind in (WHOLE, LAST):
            yield b"".join(parts)


def find_files(where: Path) -> list[Path]:
    """All offline files below a folder, or the one given."""
    return [where] if where.suffix == ".wandb" else sorted(where.rglob("run-*.wandb"))


def read_files(where: Path) -> list[RunRecord]:
    """One record per run id, its files in the order of their names, which tell when they were begun.

    Raises:
        UserError: there is no file, or one is none of W&B's.
    """
    files = find_files(where)
    if not files:
        raise UserError(
            f"{where} holds no run-*.wandb; runs write them to <run>/wandb with logging.wandb=offline"
        )
    runs: dict[str, list[Path]] = {}
    for path in files:
        runs.setdefault(path.stem.removeprefix("run-"), []).append(path)
    return [_record(name, paths) for name, paths in sorted(runs.items())]


def _record(name: str, paths: Iterable[Path]) -> RunRecord:
    config: dict[str, Any] = {}
    rows: list[Row] = []
    ended = False
    for path in sorted(paths, key=lambda path: path.parent.name):
        ended = False
        for record in _messages(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                config |= _items(record.run.config.update)
            elif kind == "config":
                config |= _items(record.config.update)
            elif kind == "history":
                rows.append(_items(record.history.item))
            elif kind == "exit":
                ended = record.exit.exit_code == 0
    return record_of(name, config, rows, "done" if ended else "running")


def _messages(path: Path) -> Iterator[Any]:
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2  # half a second, paid only by those who read W&B's files

    messages: Any = wandb_internal_pb2
    content = path.read_bytes()
    if not content.startswith(HEADER):
        raise UserError(f"{path} is no file of W&B's: it does not begin with {HEADER.decode()}")
    for payload in payloads(content):
        message = messages.Record()
        try:
            message.ParseFromString(payload)
        except DecodeError:
            return  # damaged: as if it were torn here
        yield message


def _items(items: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        name = list(item.nested_key) or [item.key]
        inner = found
        for part in name[:-1]:
            inner = inner.setdefault(part, {})
        inner[name[-1]] = json.loads(item.value_json)
    return found


def record_of(
    name: str, config: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], state: str
) -> RunRecord:
    """A run of W&B as a record: W&B's own columns and pictures dropped, evaluations apart from iterations.

    Rows without an iteration, which runs before 2026-11-21 wrote of their evaluations, cannot be placed.

    Raises:
        UserError: the config is none of ours.
    """
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    if "seed" not in config or "choices" not in config:
        raise UserError(f"W&B run {name} was not recorded by ablate: its config has no seed or no choices")
    metrics: dict[int, Row] = {}
    evals: dict[int, Row] = {}
    for row in rows:
        kept = {key: value for key, value in row.items() if not key.startswith("_") and not _media(value)}
        if keys.ITERATION not in kept:
            continue
        evaluated = any(key.startswith("eval/") for key in kept)
        (evals if evaluated else metrics)[int(kept[keys.ITERATION])] = kept
    return RunRecord(
        signature=name,
        config=config,
        metrics=tuple(metrics[at] for at in sorted(metrics)),
        evals=tuple(evals[at] for at in sorted(evals)),
        state={"state": state},
        commit="",
        overrides="",
        root=None,
    )


def _media(value: object) -> bool:
    return isinstance(value, Mapping) and "_type" in value
