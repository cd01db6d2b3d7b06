"""Names for randomness: every draw has an address, so it can be had again.

No generator is shared and none is saved. A draw is named by (seed, iteration), a purpose and the number of
the sample it belongs to; hence micro-batches, chunks and the number of processes change no bit of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Word = int | str
_MASK = (1 << 63) - 1  # torch seeds are non-negative int64


def _hash(words: tuple[Word, ...], row: int) -> int:
    text = "/".join(map(str, words)).encode() + row.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") & _MASK


@dataclass(frozen=True)
class Key:
    """An address: words, in order.

    Two addresses share a stream by chance only: torch's CPU generator keeps 32 bits of a seed, so among n
    streams some pair coincides with probability about n^2 / 2^33.

    Raises:
        ValueError: a word has a "/" in it, which is what joins words.
    """

    words: tuple[Word, ...] = ()

    def __post_init__(self) -> None:
        if any("/" in word for word in self.words if isinstance(word, str)):
            raise ValueError(f"a word of the key {self.words} has a '/'; take another sign")

    def of(self, *words: Word) -> Key:
        """The address below this one."""
        return Key(self.words + words)

    @property
    def iteration(self) -> int | None:
        """The iteration this address lies in, its second word; None outside a run's iterations."""
        word = self.words[1] if len(self.words) > 1 else None
        return word if isinstance(word, int) else None

    def generator(self) -> torch.Generator:
        """A fresh CPU generator for draws that belong to no sample."""
        generator = torch.Generator()
        generator.manual_seed(_hash(self.words, 0))
        return generator

    def rows(self, rows: Tensor) -> Draws:
        """Draws for the samples numbered ``rows`` [B] i64, on their device."""
        return Draws(self, rows)


@dataclass(frozen=True)
class Draws:
    """One random stream per row of a batch.

    Drawn on the CPU and moved, so that the same address gives the same bits on every device.
    """

    key: Key
    numbers: Tensor

    def of(self, *words: Word) -> Draws:
        """The same rows at an address below this one."""
        return Draws(self.key.of(*words), self.numbers)

    def rows(self, numbers: Tensor) -> Draws:
        """The same address for other rows, e.g. one stream per group."""
        return Draws(self.key, numbers)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal [B, *shape] fp32."""
        return self._each(shape, lambda row, generator: row.normal_(generator=generator))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1) [B, *shape] fp32."""
        return self._each(shape, lambda row, generator: row.uniform_(generator=generator))

    def permutation(self, length: int) -> Tensor:
        """A random order of ``length`` items per row [B, length] i64."""
        return self.uniform(length).argsort(stable=True, dim=1)

    def _each(self, shape: Sequence[int], fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        generator = torch.Generator()
        out = torch.empty(len(self.numbers), *shape)
        for row, number in zip(out, self.numbers.tolist(), strict=True):
            generator.manual_seed(_hash(self.key.words, number))
            fill(row, generator)
        return out.to(self.numbers.device)
