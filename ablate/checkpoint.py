"""One checkpoint, replaced atomically; its digest tells a whole file from a damaged one."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ablate.contract.errors import UserError

_MAGIC = b"ABLATE01"
_DIGEST = hashlib.sha256().digest_size


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write beside, flush to disk, then rename: a reader sees the old checkpoint or the new one.

    Raises:
        UserError: the disk is full or not writable; the old checkpoint stays.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    body = buffer.getvalue()
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as handle:
            handle.write(_MAGIC + hashlib.sha256(body).digest() + body)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"could not write {path} ({len(body) >> 20} MiB): {error.strerror}; "
            "free some space and repeat the command, the run goes on from the checkpoint before"
        ) from error


def load(path: Path) -> dict[str, Any]:
    """The state, once the digest is right.

    Raises:
        UserError: the file is damaged or half-written.
    """
    data = path.read_bytes()
    head, body = data[: len(_MAGIC) + _DIGEST], data[len(_MAGIC) + _DIGEST :]
    if head != _MAGIC + hashlib.sha256(body).digest():
        raise UserError(
            f"{path} is damaged or half-written ({len(data)} bytes, digest does not match); "
            "restore it from a copy, or delete it to begin this run anew"
        )
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return state
