"""Prompt embeddings: computed once, kept on disk, and computed again where the disk lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ablate.contract.errors import UserError
from ablate.policies import embeddings
from ablate.policies.embeddings import Embeddings, digest, fingerprint

PROMPTS = ["a cat", "two dogs", ""]


class Encoders:
    """Counts what it is asked, and how often it is loaded."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.loaded, self.open = 0, False

    @contextmanager
    def __call__(self) -> Iterator[Callable[[Sequence[str]], dict[str, Tensor]]]:
        self.loaded, self.open = self.loaded + 1, True
        yield self.encode
        self.open = False

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        self.asked += prompts
        size = torch.tensor([float(len(prompt)) for prompt in prompts])
        return {
            "embeds": size[:, None, None].expand(-1, 3, 4).bfloat16(),
            "pooled": size[:, None].expand(-1, 2),
        }


@pytest.mark.parametrize("on_disk", [True, False])
def test_each_prompt_is_encoded_once(on_disk: bool, tmp_path: Path) -> None:
    encoders = Encoders()
    made = Embeddings(encoders, "clip", tmp_path if on_disk else None)
    assert made.fill([*PROMPTS, "a cat"]) == 3 and made.fill(PROMPTS) == 0
    found = made(["two dogs", "a cat", "two dogs"])
    assert found["pooled"].tolist() == [[8, 8], [5, 5], [8, 8]]
    assert found["embeds"].shape == (3, 3, 4) and found["embeds"].dtype == torch.bfloat16
    assert encoders.asked == PROMPTS and encoders.loaded == 1 and not encoders.open


def test_many_prompts_take_several_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_BATCH", 4)
    encoders = Encoders()
    prompts = ["x" * length for length in range(10)]
    found = Embeddings(encoders, "clip", tmp_path)(prompts)
    assert found["pooled"][:, 0].tolist() == list(range(10)) and encoders.loaded == 1


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _reshape(path: Path) -> None:
    """The same bytes as another shape, under the digest of the first."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {"embeds": tensors["embeds"].reshape(4, 3)}, path, told)


def _unsign(path: Path) -> None:
    save_file(load_file(path), path)


@pytest.mark.parametrize("harm", [_cut, _flip, _reshape, _unsign, Path.unlink, lambda p: p.write_bytes(b"")])
def test_a_corrupt_entry_is_computed_again(harm: Callable[[Path], object], tmp_path: Path) -> None:
    """And only that one, by who asks for it or by the next run that fills."""
    for refill in (True, False):
        encoders = Encoders()
        made = Embeddings(encoders, "clip", tmp_path / str(refill))
        made.fill(PROMPTS)
        expected = digest(made(PROMPTS))
        harm(made.path("two dogs"))
        if refill:
            assert made.fill(PROMPTS) == 1
        assert digest(made(PROMPTS)) == expected
        assert encoders.asked == [*PROMPTS, "two dogs"]


def test_other_encoders_have_other_entries(tmp_path: Path) -> None:
    one, two = Encoders(), Encoders()
    Embeddings(one, "clip", tmp_path).fill(PROMPTS)
    assert Embeddings(two, "clip, but tuned", tmp_path).fill(PROMPTS) == 3
    assert Embeddings(two, "clip", tmp_path).fill(PROMPTS) == 0


@pytest.mark.parametrize("size", [10, 100, 40_000_000])
def test_a_fingerprint_sees_names_sizes_and_contents(size: int, tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    path = folder / "model.safetensors"

    def told(content: bytes, name: str = "model.safetensors") -> str:
        path.unlink(missing_ok=True)
        (folder / name).write_bytes(content)
        found = fingerprint([folder])
        (folder / name).unlink()
        return found

    base = bytes(size)
    found = [told(base), told(base + b"1"), told(b"1" + base[1:]), told(base, "other.safetensors")]
    assert len(set(found)) == 4 and told(base) == found[0]
    if size < 1000:
        assert told(base[:-1] + b"1") != found[0]


def test_a_disk_that_is_full_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="could not write .* free some space"):
        Embeddings(Encoders(), "clip", tmp_path / "file").fill(PROMPTS)
