"""What a run reads but the repository does not ship: prompt files and checkpoints, looked for without torch.

A part's yaml says in ``files`` which of its fields are paths, and in ``checkpoints`` which are diffusers
pipelines or transformers models, and of what class.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from ablate.contract.compat import parts
from ablate.contract.errors import UserError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_WEIGHTS = ("diffusion_pytorch_model", "model")
_WEIGHTLESS = ("Tokenizer", "Scheduler", "Processor", "Extractor")  # in the class names of such components


def check(config: Mapping[str, Any]) -> None:
    """Refuse a run whose files this machine does not have.

    Raises:
        UserError: naming the first one, the rule and the cure.
    """
    for problem in missing(config):
        raise UserError(problem)


def missing(config: Mapping[str, Any]) -> Iterator[str]:
    """One line for each file or checkpoint of the chosen parts that is not whole on this machine."""
    for group, node in parts(config).items():
        for field in node.get("files", ()):
            path = Path(str(_field(node, field))).expanduser()
            if not path.is_file():
                cure = f"put it there, or name yours: {group}.{field}=FILE"
                yield f"{group}.{field} = {path}: no such file; {cure}"
        for field, kind in node.get("checkpoints", {}).items():
            try:
                find = pipeline_folder if kind.endswith("Pipeline") else model_folder
                find(str(_field(node, field)), kind)
            except UserError as error:
                yield f"{group}.{field} = {error}"


def pipeline_folder(checkpoint: str, kind: str) -> Path:
    """The folder of a diffusers pipeline, once every component is there and as long as it says.

    Args:
        checkpoint: a folder, or a hub id, with ``@revision`` after it where it is not main.
        kind: class of the pipeline.

    Raises:
        UserError: there is none, it is half a download, or of another class.
    """
    return _folder(checkpoint, kind, "model_index.json", _pipeline_damage)


def model_folder(checkpoint: str, kind: str) -> Path:
    """As ``pipeline_folder``, of one transformers model."""
    return _folder(checkpoint, kind, "config.json", _model_damage)


def _folder(checkpoint: str, kind: str, index: str, damage: Callable[[Path, str], Iterator[str]]) -> Path:
    local = Path(checkpoint).expanduser()
    on_hub = not local.is_dir() and _HUB_ID.fullmatch(checkpoint) is not None
    folder = _cached(checkpoint, index) if on_hub else local if local.is_dir() else None
    repository, _, revision = checkpoint.partition("@")
    fetch = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
    cure = f"fetch it with: {fetch}" if on_hub else f"save a {kind} there, or name another folder or a hub id"
    if folder is None:
        where = "is not on this machine" if on_hub else "is no folder"
        gate = " (if gated: accept its licence on its page, then hf auth login)" if on_hub else ""
        raise UserError(f"{checkpoint}: {where}; {cure}{gate}")
    for problem in damage(folder, kind):
        raise UserError(f"{checkpoint}: {problem}; {cure}")
    return folder


def _field(node: Mapping[str, Any], name: str) -> Any:
    return reduce(lambda inner, key: inner[key], name.split("."), node)


def _cached(checkpoint: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = checkpoint.partition("@")
    index = try_to_load_from_cache(repository, file, revision=revision or None)
    return Path(index).parent if isinstance(index, str) else None


def _pipeline_damage(folder: Path, kind: str) -> Iterator[str]:
    try:
        index = json.loads((folder / "model_index.json").read_text())
        made = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        yield "it has no readable model_index.json, so it is no diffusers pipeline"
        return
    if made != kind:
        yield f"it is a {made}, and this policy needs a {kind}"
    for name, entry in index.items():
        if isinstance(entry, list) and len(entry) == 2 and entry[1] is not None:
            yield from _component_damage(folder / name, str(entry[1]))


def _model_damage(folder: Path, kind: str) -> Iterator[str]:
    try:
        made = json.loads((folder / "config.json").read_text())["architectures"]
    except (OSError, ValueError, KeyError, TypeError):
        yield "it has no readable config.json, so it is no transformers model"
        return
    if kind not in made:
        yield f"it is a {' or '.join(made)}, and this part needs a {kind}"
    yield from _component_damage(folder, kind)


def _component_damage(folder: Path, made: str) -> Iterator[str]:
    if not folder.is_dir() or not any(folder.iterdir()):
        yield f"its {folder.name} is missing"
        return
    if any(word in made for word in _WEIGHTLESS):
        return
    files = list(_weight_files(folder))
    if not files or not (folder / "config.json").is_file():
        yield f"its {folder.name} has no config.json with safetensors weights"
    for path in files:
        if not _is_whole(path):
            yield f"its {folder.name}/{path.name} is missing or cut short"


def _weight_files(folder: Path) -> Iterator[Path]:
    """The weights diffusers and transformers would read: one file, or the shards an index lists."""
    for stem in _WEIGHTS:
        index = folder / f"{stem}.safetensors.index.json"
        if (folder / f"{stem}.safetensors").exists():
            yield folder / f"{stem}.safetensors"
        elif index.exists():
            yield from (
                folder / name for name in sorted({*json.loads(index.read_text())["weight_map"].values()})
            )


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length)) if length <= path.stat().st_size else {}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(ends) and path.stat().st_size == 8 + length + max(ends)
    except (OSError, ValueError, struct.error):
        return False
