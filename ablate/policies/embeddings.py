"""Prompt embeddings, computed once: one safetensors file per prompt, named by what it depends on.

Text encoders are loaded for the prompts that have no whole file, and are gone afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ablate.contract.errors import UserError

Encode = Callable[[Sequence[str]], Mapping[str, Tensor]]  # prompts -> tensors, batch first
_BATCH = 32  # prompts per call of the encoders
_BLOCKS, _BLOCK = 256, 1 << 16  # of each weight file, as many blocks of as many bytes tell it from another


class Embeddings:
    """Embeddings of prompts; on disk below ``folder``, or in memory where there is none.

    Args:
        encoders: a context that loads the text encoders, yields ``Encode``, and frees them.
        identity: whatever else the embeddings depend on: the encoders' weights, their dtype, token limits.
    """

    def __init__(
        self,
        encoders: Callable[[], AbstractContextManager[Encode]],
        identity: str,
        folder: Path | None = None,
    ) -> None:
        self._encoders, self._identity, self._folder = encoders, identity, folder
        self._kept: dict[str, dict[str, Tensor]] = {}

    def path(self, prompt: str) -> Path:
        """Where a prompt's embedding is kept on disk."""
        assert self._folder is not None
        name = hashlib.sha256(f"{self._identity}\n{prompt}".encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.safetensors"

    def fill(self, prompts: Iterable[str]) -> int:
        """Compute what is not there yet, or is damaged; returns how many prompts that was."""
        lacking = [prompt for prompt in dict.fromkeys(prompts) if self._read(prompt) is None]
        if lacking:
            with self._encoders() as encode, torch.no_grad():
                for first in range(0, len(lacking), _BATCH):
                    part = lacking[first : first + _BATCH]
                    rows = encode(part)
                    for row, prompt in enumerate(part):
                        self._write(prompt, {name: value[row].cpu() for name, value in rows.items()})
        return len(lacking)

    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings [B,...] of prompts, which may repeat."""
        unique = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        found = {prompt: self._read(prompt) for prompt in unique}
        lacking = [prompt for prompt, value in found.items() if value is None]
        if lacking:
            self.fill(lacking)
            found |= {prompt: self._read(prompt) for prompt in lacking}
        whole = [value for value in found.values() if value is not None]
        if len(whole) < len(unique):
            raise UserError(f"{self._folder} does not keep what is written there; check the disk")
        rows = torch.tensor([unique[prompt] for prompt in prompts])
        return {name: torch.stack([value[name] for value in whole])[rows] for name in whole[0]}

    def _read(self, prompt: str) -> dict[str, Tensor] | None:
        """A prompt's embedding, or None where there is none or its digest is wrong."""
        if self._folder is None:
            return self._kept.get(prompt)
        try:
            with safe_open(self.path(prompt), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = (file.metadata() or {}).get("digest")
        except (OSError, SafetensorError):
            return None
        return tensors if tensors and told == digest(tensors) else None

    def _write(self, prompt: str, tensors: dict[str, Tensor]) -> None:
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        if self._folder is None:
            self._kept[prompt] = tensors
            return
        path = self.path(prompt)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, partial, {"digest": digest(tensors), "prompt": prompt})
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise UserError(
                f"could not write {path}: {error}; free some space and repeat the command"
            ) from error


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes."""
    told = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        told.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        told.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return told.hexdigest()


def fingerprint(folders: Iterable[Path]) -> str:
    """sha256 over the files of encoders and tokenizers: names, sizes, evenly spread blocks.

    A small file is read whole; reading eleven gigabytes at every start would take longer than the start.
    """
    told = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        told.update(f"{path.parent.name}/{path.name} {size}\n".encode())
        step = max(_BLOCK, size // _BLOCKS)
        with path.open("rb") as handle:
            for start in range(0, size, step):
                handle.seek(start)
                told.update(handle.read(_BLOCK))
    return told.hexdigest()
