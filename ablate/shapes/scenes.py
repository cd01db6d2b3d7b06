"""The world of the `shapes` bed: what a scene is, what a caption asks for, and which captions are held out.

A scene is up to four objects (shape x colour) on a 2x2 grid of cells. A caption is of one of GenEval's six
task kinds (arXiv:2310.11513) and is true of a scene that holds exactly what it names and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ("red", "green", "blue", "yellow")
NUMBERS = {2: "two", 3: "three", 4: "four"}
RELATIONS = ("left of", "right of", "above", "below")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
CELLS = tuple(product((0, 1), (0, 1)))  # (row, column)


@dataclass(frozen=True)
class Object:
    """A coloured shape in a cell of the 2x2 grid."""

    shape: str
    color: str
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    """Objects in distinct cells."""

    objects: tuple[Object, ...]


@dataclass(frozen=True)
class Wanted:
    """One clause of a caption: ``count`` objects of a shape, of a colour or (None) of any."""

    shape: str
    count: int = 1
    color: str | None = None


@dataclass(frozen=True)
class Caption:
    """What is asked for. ``relation`` says where the first wanted object stands from the second."""

    text: str
    task: str
    wanted: tuple[Wanted, ...]
    relation: str | None = None

    @property
    def metadata(self) -> dict[str, object]:
        """The caption as plain data, in the manner of GenEval's `include` lists."""
        include = [{"shape": w.shape, "count": w.count, "color": w.color} for w in self.wanted]
        return {"task": self.task, "include": include, "relation": self.relation}


def wanted_of(metadata: Mapping[str, object]) -> tuple[tuple[Wanted, ...], str | None]:
    """The clauses and the relation of a prompt's metadata.

    Raises:
        ValueError: the metadata is not that of a `shapes` prompt.
    """
    include, relation = metadata.get("include"), metadata.get("relation")
    if (
        not isinstance(include, (list, tuple))
        or not include
        or (relation is not None and relation not in RELATIONS)
    ):
        raise ValueError(
            f"metadata {dict(metadata)!r} is not of a `shapes` prompt; use prompts=shapes with reward=shapes"
        )
    return tuple(Wanted(**clause) for clause in include), None if relation is None else str(relation)


def captions(task: str) -> tuple[Caption, ...]:
    """Every caption of a task kind, in a fixed order."""
    return tuple(_CAPTIONS_OF[task]())


def is_held_out(caption: Caption) -> bool:
    """Whether the caption belongs to the test prompts alone.

    About a quarter of the combinations, closed under saying the same thing the other way round ("a circle
    left of a square", "a square right of a circle"). The four captions of `single_object` are in both sets:
    they combine nothing.
    """
    index = [SHAPES.index(w.shape) for w in caption.wanted]
    hue = [COLORS.index(w.color) for w in caption.wanted if w.color is not None]
    if caption.task == "two_object":
        return sum(index) == 3
    if caption.task == "counting":
        return caption.wanted[0].count - 2 == index[0]
    if caption.task == "colors":
        return (index[0] + hue[0]) % 4 == 3
    if caption.task == "color_attr":
        return (sum(index) + sum(hue)) % 4 == 0
    if caption.task == "position":
        relation = RELATIONS.index(str(caption.relation))
        first, second = index if relation % 2 == 0 else index[::-1]
        return (2 * first + second + relation // 2 * 2) % 4 == 0
    return False


def sample_scene(caption: Caption, rng: np.random.Generator) -> Scene:
    """A scene of which the caption is true: free colours and cells are drawn uniformly."""
    cells = _related_cells(caption.relation, rng)
    free = (
        COLORS[rng.integers(len(COLORS))] if caption.task == "counting" else None
    )  # a count is of like things
    objects: list[Object] = []
    for wanted in caption.wanted:
        for _ in range(wanted.count):
            color = wanted.color or free or COLORS[rng.integers(len(COLORS))]
            objects.append(Object(wanted.shape, color, *cells[len(objects)]))
    return Scene(tuple(objects))


def _related_cells(relation: str | None, rng: np.random.Generator) -> list[tuple[int, int]]:
    """The cells in random order; if a relation is given it holds between the first two."""
    cells = [CELLS[i] for i in rng.permutation(len(CELLS))]
    if relation is None:
        return cells
    axis = 1 if relation in ("left of", "right of") else 0
    low = [cell for cell in cells if cell[axis] == 0]
    high = [cell for cell in cells if cell[axis] == 1]
    return [low[0], high[0]] if relation in ("left of", "above") else [high[0], low[0]]


def _single() -> Iterator[Caption]:
    for shape in SHAPES:
        yield Caption(f"a {shape}", "single_object", (Wanted(shape),))


def _two() -> Iterator[Caption]:
    for a, b in permutations(SHAPES, 2):
        yield Caption(f"a {a} and a {b}", "two_object", (Wanted(a), Wanted(b)))


def _counting() -> Iterator[Caption]:
    for (count, word), shape in product(NUMBERS.items(), SHAPES):
        plural = "crosses" if shape == "cross" else f"{shape}s"
        yield Caption(f"{word} {plural}", "counting", (Wanted(shape, count),))


def _colors() -> Iterator[Caption]:
    for color, shape in product(COLORS, SHAPES):
        yield Caption(f"a {color} {shape}", "colors", (Wanted(shape, color=color),))


def _position() -> Iterator[Caption]:
    for relation, (a, b) in product(RELATIONS, permutations(SHAPES, 2)):
        yield Caption(f"a {a} {relation} a {b}", "position", (Wanted(a), Wanted(b)), relation)


def _color_attr() -> Iterator[Caption]:
    for (a, b), (c, d) in product(permutations(SHAPES, 2), permutations(COLORS, 2)):
        wanted = (Wanted(a, color=c), Wanted(b, color=d))
        yield Caption(f"a {c} {a} and a {d} {b}", "color_attr", wanted)


_CAPTIONS_OF = {
    "single_object": _single,
    "two_object": _two,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attr": _color_attr,
}
