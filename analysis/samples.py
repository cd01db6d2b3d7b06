"""Sample grids through training, as images that a page can carry inside itself."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from analysis.arms import Arm

FRAMES: Final = 72  # on a page at most, and 9 of an arm: it should stay some megabytes small


def data_uri(content: bytes, kind: str) -> str:
    """``data:<kind>;base64,…``"""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True)
class Frame:
    """One sample grid; width and height in pixels, hours of the device that made it."""

    uri: str
    width: int
    height: int
    iteration: int
    hours: float
    value: float


@dataclass(frozen=True)
class Strip:
    """The grids of one arm's first seed, first and last among them."""

    arm: Arm
    seed: int
    frames: tuple[Frame, ...]


def strips(arms: Sequence[Arm]) -> list[Strip]:
    """One strip per arm that kept at least two grids: its lowest seed, never the best-looking one."""
    most = max(2, min(9, FRAMES // len(arms)))
    made = [Strip(arm, arm.curves[0].seed, _frames(arm, most)) for arm in arms]
    return [strip for strip in made if len(strip.frames) > 1]


def _frames(arm: Arm, most: int) -> tuple[Frame, ...]:
    curve = arm.curves[0]
    kept = [(index, path) for index, path in enumerate(curve.images) if path is not None and path.is_file()]
    if not kept:
        return ()
    chosen = np.unique(np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int))
    return tuple(
        _frame(path, int(curve.iteration[index]), float(curve.hours[index]), float(curve.value[index]))
        for index, path in (kept[place] for place in chosen)
    )


def _frame(path: Path, iteration: int, hours: float, value: float) -> Frame:
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])  # the first chunk of every PNG
    return Frame(data_uri(content, "image/png"), width, height, iteration, hours, value)
