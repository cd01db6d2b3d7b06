"""GenEval's rules as pure functions over detections, and the training reward Flow-GRPO's server made of them.

Legend: a clause of ``include`` asks for ``count`` = n objects of a class, perhaps with a color or a position
relative to an earlier clause's objects; ``exclude`` asks for fewer than n. (arXiv:2310.11513; the training
reward is of arXiv:2505.05470's reward server, whose scores all later papers report.)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST = 16  # detections of a class that count, by score
LEAST_SCORE, LEAST_COUNTING_SCORE = 0.3, 0.9
_SHRINK, _NEAR, _APART = 0.1, 1e-3, 0.5


@dataclass(frozen=True)
class Detection:
    """An object found in an image.

    Attributes:
        label: class, as GenEval's prompts name it.
        score: of the detector, in [0,1].
        box: left, top, right, bottom in pixels.
        color: as the color classifier names it; "" where nobody asked.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    color: str = ""


Found = Mapping[str, Sequence[Detection]]


def found(detections: Sequence[Detection], tag: str) -> Found:
    """Detections that count, by class, best first: score above .3 (.9 where it is counting), 16 at most."""
    least = LEAST_COUNTING_SCORE if tag == "counting" else LEAST_SCORE
    by_class: defaultdict[str, list[Detection]] = defaultdict(list)
    for detection in sorted(detections, key=lambda d: -d.score):
        if detection.score > least and len(by_class[detection.label]) < MOST:
            by_class[detection.label].append(detection)
    return dict(by_class)


def relations(a: Detection, b: Detection) -> frozenset[str]:
    """Where ``a`` is of ``b``: "left of", "right of", "above", "below", at most one per axis.

    The offset of their centers is shrunk by a tenth of both sizes, then divided by its length.
    """
    offset = [
        _shrunk((a.box[i] + a.box[i + 2] - b.box[i] - b.box[i + 2]) / 2, _size(a, i) + _size(b, i))
        for i in (0, 1)
    ]
    if all(abs(part) < _NEAR for part in offset):
        return frozenset()
    dx, dy = (part / math.hypot(*offset) for part in offset)
    named = (("left of", -dx), ("right of", dx), ("above", -dy), ("below", dy))
    return frozenset(name for name, distance in named if distance > _APART)


def correct(objects: Found, metadata: Mapping[str, Any]) -> bool:
    """Whether the image shows what the prompt asks: the benchmark's accuracy.

    Of each class only the best n detections are looked at; ``exclude`` fails on n or more.
    """
    matched: list[Sequence[Detection] | None] = []
    for clause in metadata["include"]:
        best = objects.get(clause["class"], ())[: clause["count"]]
        holds = len(best) == clause["count"] and _right_colors(best, clause) == clause["count"]
        holds = holds and _in_place(best, clause, matched)
        matched.append(best if holds else None)
    excluded = (
        len(objects.get(clause["class"], ())) >= clause["count"] for clause in metadata.get("exclude", ())
    )
    return None not in matched and not any(excluded)


def training_reward(objects: Found, metadata: Mapping[str, Any], *, parity: bool) -> tuple[float, bool]:
    """Mean of the clauses' partial scores, and whether all of them hold exactly; ``exclude`` does not count.

    A clause scores ``1 - |n - m| / n`` for m objects; where m = n, also ``1 - |n - right| / n`` for its color
    and 1 or 0 for its position; where m differs, a 0 for either.

    Args:
        parity: as published, with its two quirks: many objects score below 0, and a wrong position beside a
            matched clause adds a 1 after its 0. Without: a count scores 0 at least, a wrong position 0.
    """
    scores: list[float] = []
    matched: list[Sequence[Detection] | None] = []
    for clause in metadata["include"]:
        objects_of, n = objects.get(clause["class"], ()), int(clause["count"])
        count = 1 - abs(n - len(objects_of)) / n
        scores.append(count if parity else max(0.0, count))
        holds = len(objects_of) == n
        if not holds and ("color" in clause or "position" in clause):
            scores.append(0.0)
        if holds and "color" in clause:
            right = _right_colors(objects_of, clause)
            scores.append(1 - (n - right) / n)
            holds = right == n
        if holds and "position" in clause:
            holds = _in_place(objects_of, clause, matched)
            scores.append(float(holds))
            if not holds and parity and matched[clause["position"][1]] is not None:
                scores.append(1.0)
        matched.append(objects_of if holds else None)
    return sum(scores) / len(scores), None not in matched


def _right_colors(objects: Sequence[Detection], clause: Mapping[str, Any]) -> int:
    """How many have the clause's color; all, where it asks for none."""
    return sum(detection.color == clause.get("color", detection.color) for detection in objects)


def _in_place(
    objects: Sequence[Detection], clause: Mapping[str, Any], matched: Sequence[Sequence[Detection] | None]
) -> bool:
    """Whether every object stands to every one of the clause it names as it should; True if it names none."""
    if "position" not in clause:
        return True
    relation, number = clause["position"]
    targets = matched[number]
    return targets is not None and all(relation in relations(a, b) for a in objects for b in targets)


def _size(detection: Detection, axis: int) -> float:
    return detection.box[axis + 2] - detection.box[axis]


def _shrunk(offset: float, sizes: float) -> float:
    return math.copysign(max(abs(offset) - _SHRINK * sizes, 0.0), offset)
