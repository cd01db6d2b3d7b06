"""Is a caption true of an image? Classical image analysis for GenEval's detector (arXiv:2310.11513).

Pixels are quantised to the palette, joined into blobs of one colour, and each blob is matched with the
shapes' templates. What is seen but matches none is junk, so a stray blob, a two-tone or a misshapen object
costs the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ablate.shapes.render import EXTENT, GROUND, PALETTE, TEMPLATES, Image, Mask
from ablate.shapes.scenes import Wanted, wanted_of

TOLERANCE = 0.5  # RGB distance up to which a pixel has a colour; two colours differ by at least 1
MIN_OVERLAP = 0.9  # intersection over union, so three or four wrong pixels; two different shapes reach 0.76
MIN_BLOB = 4  # pixels; what is smaller is a speck
MAX_SPECKS = 4  # pixels in all specks together; more is junk
MARGIN = 4.0  # pixels between centres for a relation to hold
PENALTY = 0.25  # of the partial score per object too many or piece of junk

_NAMES = tuple(PALETTE)
_ANCHORS = np.array([GROUND, *PALETTE.values()], dtype=np.float32)  # 0 is the ground
_UNKNOWN = len(_ANCHORS)


def _shifted(template: Mask) -> list[NDArray[np.float32]]:
    """The template at the nine places it can have in a frame two pixels larger, flat."""
    pads = [((top, 2 - top), (left, 2 - left)) for top in range(3) for left in range(3)]
    return [np.pad(template, pad).ravel().astype(np.float32) for pad in pads]


_SHAPES = tuple(TEMPLATES)
_SHIFTS = 9
_SHIFTED = np.stack(
    [view for template in TEMPLATES.values() for view in _shifted(template)]
)  # [shapes * shifts, 81]


@dataclass(frozen=True)
class Verdict:
    """``strict``: 1 if the image shows exactly what is asked, else 0; ``partial`` in [0,1]: 1 iff strict."""

    strict: float
    partial: float


@dataclass(frozen=True)
class Seen:
    """An object found in an image, with its centre in pixels."""

    shape: str
    color: str
    y: float
    x: float


def verify(image: Image, metadata: Mapping[str, object]) -> Verdict:
    """Score an image [H,W,3] in [0,1] against a prompt's metadata.

    partial = max(0, mean of the clauses - 0.25 (objects of other shapes + junk)). The clauses, each in [0,1]:
    for every wanted shape its count, 1 - |seen - wanted| / wanted, and if a colour is asked for the share of
    those having it; and the relation. strict = 1 iff partial = 1. Whatever the caption does not name only
    takes away, so nothing but drawing more of the caption raises the score.

    Raises:
        ValueError: the metadata is not of a `shapes` prompt.
    """
    wanted, relation = wanted_of(metadata)
    seen, junk = find(image)
    clauses = [score for clause in wanted for score in _presence(clause, seen)]
    if relation is not None:
        clauses.append(_related(seen, wanted, relation))
    extra = sum(all(thing.shape != clause.shape for clause in wanted) for thing in seen)
    partial = max(0.0, float(np.mean(clauses)) - PENALTY * (extra + junk))
    return Verdict(strict=float(partial == 1.0), partial=partial)


def find(image: Image) -> tuple[list[Seen], int]:
    """The objects of an image [H,W,3] in [0,1], and the number of pieces of junk."""
    labels = _quantise(image)
    seen: list[Seen] = []
    junk = specks = 0
    for color in range(1, _UNKNOWN + 1):
        blobs, _ = ndimage.label(labels == color)
        for number, window in enumerate(ndimage.find_objects(blobs), start=1):
            mask = blobs[window] == number
            shape = None if color == _UNKNOWN else _match(mask)
            if mask.sum() < MIN_BLOB:
                specks += int(mask.sum())
            elif shape is None:
                junk += 1
            else:
                y, x = ((edge.start + edge.stop - 1) / 2 for edge in window)
                seen.append(Seen(shape, _NAMES[color - 1], y, x))
    return seen, junk + int(specks > MAX_SPECKS)


def _quantise(image: Image) -> NDArray[np.intp]:
    """Number of the nearest colour per pixel [H,W]; 0 is the ground, the last stands for none near enough."""
    distance = np.linalg.norm(image[:, :, None, :] - _ANCHORS, axis=-1)
    return np.where(distance.min(-1) <= TOLERANCE, distance.argmin(-1), _UNKNOWN)


def _match(mask: Mask) -> str | None:
    """The shape that overlaps the blob most, at the best shift by a pixel; None below `MIN_OVERLAP`."""
    height, width = mask.shape
    if not (EXTENT - 1 <= height <= EXTENT + 1 and EXTENT - 1 <= width <= EXTENT + 1):
        return None
    frame = np.zeros((EXTENT + 2, EXTENT + 2), dtype=np.float32)
    frame[1 : 1 + height, 1 : 1 + width] = mask
    common = _SHIFTED @ frame.ravel()
    overlap = common / (frame.sum() + _SHIFTED.sum(-1) - common)
    best = int(overlap.argmax())
    return _SHAPES[best // _SHIFTS] if overlap[best] >= MIN_OVERLAP else None


def _presence(clause: Wanted, seen: Sequence[Seen]) -> list[float]:
    """The count clause, and the colour clause if a colour is asked for."""
    found = [thing for thing in seen if thing.shape == clause.shape]
    count = max(0.0, 1 - abs(len(found) - clause.count) / clause.count)
    if clause.color is None:
        return [count]
    return [count, sum(thing.color == clause.color for thing in found) / max(1, len(found))]


def _related(seen: Sequence[Seen], wanted: Sequence[Wanted], relation: str) -> float:
    """1 if the relation holds between the only objects of the first and of the second shape, else 0."""
    first = [thing for thing in seen if thing.shape == wanted[0].shape]
    second = [thing for thing in seen if thing.shape == wanted[1].shape]
    if len(first) != 1 or len(second) != 1:
        return 0.0
    right, down = first[0].x - second[0].x, first[0].y - second[0].y
    ahead = {"left of": -right, "right of": right, "above": -down, "below": down}[relation]
    return float(ahead >= MARGIN)
