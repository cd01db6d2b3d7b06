"""The verifier's rates, measured: right on what the renderer draws, unmoved by anything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ablate.prompts.shapes import ShapesPrompts
from ablate.rewards.shapes import ShapesReward
from ablate.shapes.render import PALETTE, Image, render
from ablate.shapes.scenes import (
    CELLS,
    SHAPES,
    TASKS,
    Caption,
    Object,
    Scene,
    captions,
    is_held_out,
    sample_scene,
)
from ablate.shapes.verifier import verify
from ablate.types import Prompt

CHECKS = 300


def drawn(task: str, rng: np.random.Generator) -> tuple[Caption, Scene]:
    every = captions(task)
    caption = every[rng.integers(len(every))]
    return caption, sample_scene(caption, rng)


def is_true(caption: Caption, scene: Scene) -> bool:
    """The caption's meaning, spelt out on the scene: an oracle that sees no pixel."""
    kinds = [thing.shape for thing in scene.objects]
    if sorted(kinds) != sorted(shape for w in caption.wanted for shape in [w.shape] * w.count):
        return False
    if any(
        w.color not in (None, o.color) for w in caption.wanted for o in scene.objects if o.shape == w.shape
    ):
        return False
    if caption.relation is None:
        return True
    first, second = (next(o for o in scene.objects if o.shape == w.shape) for w in caption.wanted)
    return {
        "left of": first.column < second.column,
        "right of": first.column > second.column,
        "above": first.row < second.row,
        "below": first.row > second.row,
    }[caption.relation]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("noise_std", [0.0, 0.1])
def test_true_renders_are_accepted(task: str, noise_std: float) -> None:
    rng = np.random.default_rng(0)
    pairs = [drawn(task, rng) for _ in range(CHECKS)]
    strict = [verify(render(scene, noise_std, rng), caption.metadata).strict for caption, scene in pairs]
    assert np.mean(strict) >= 0.99


@pytest.mark.parametrize("task", TASKS)
def test_renders_of_which_the_caption_is_false_are_rejected(task: str) -> None:
    rng = np.random.default_rng(1)
    wrong = []
    while len(wrong) < CHECKS:
        caption, (_, scene) = drawn(task, rng)[0], drawn(TASKS[rng.integers(len(TASKS))], rng)
        if not is_true(caption, scene):
            wrong.append(verify(render(scene), caption.metadata))
    assert np.mean([v.strict for v in wrong]) <= 0.01
    assert all(0 <= v.partial < 1 for v in wrong)


@pytest.mark.parametrize("kind", ["uniform", "bright", "white", "black", "palette"])
def test_images_without_objects_score_nothing(kind: str) -> None:
    rng = np.random.default_rng(2)
    scores = []
    for _ in range(CHECKS):
        image = {
            "uniform": rng.random((16, 16, 3)),
            "bright": np.clip(1 + 0.5 * rng.standard_normal((16, 16, 3)), 0, 1),
            "white": np.ones((16, 16, 3)),
            "black": np.zeros((16, 16, 3)),
            "palette": np.array([(1, 1, 1), *PALETTE.values()])[rng.integers(5, size=(16, 16))],
        }[kind].astype(np.float32)
        scores.append(verify(image, drawn(TASKS[rng.integers(len(TASKS))], rng)[0].metadata))
    assert np.mean([v.strict for v in scores]) <= 0.01
    assert np.mean([v.partial for v in scores]) <= 0.01


def red_circle() -> tuple[Image, dict[str, object]]:
    caption = next(c for c in captions("colors") if c.text == "a red circle")
    return render(Scene((Object("circle", "red", 0, 0),))), caption.metadata


def test_the_reference_is_accepted() -> None:
    assert verify(*red_circle()).strict == 1


@pytest.mark.parametrize("color", ["red", "blue"])
@pytest.mark.parametrize("shape", [(2, 2), (1, 4), (3, 3), (5, 5)])
def test_a_stray_blob_is_rejected(color: str, shape: tuple[int, int]) -> None:
    image, metadata = red_circle()
    image[10 : 10 + shape[0], 10 : 10 + shape[1]] = PALETTE[color]
    assert verify(image, metadata).strict == 0


def test_a_blob_of_no_colour_and_many_specks_are_rejected() -> None:
    image, metadata = red_circle()
    image[10:13, 10:13] = 0.4
    assert verify(image, metadata).strict == 0
    image, metadata = red_circle()
    image[9:16:2, 0:12:3] = 0.0
    assert verify(image, metadata).strict == 0


@pytest.mark.parametrize("half", [np.s_[:3, :8], np.s_[:8, :3], np.s_[2:5, 2:5]])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_two_tone_shape_is_rejected(shape: str, half: tuple[slice, slice]) -> None:
    image = render(Scene((Object(shape, "red", 0, 0),)))
    part = image[half]
    part[(part == PALETTE["red"]).all(-1)] = PALETTE["blue"]
    single = next(c for c in captions("single_object") if c.wanted[0].shape == shape)
    assert verify(image, single.metadata).strict == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_hole_in_a_shape_is_rejected(shape: str) -> None:
    image = render(Scene((Object(shape, "red", 0, 0),)))
    image[2:5, 2:5] = 1.0
    single = next(c for c in captions("single_object") if c.wanted[0].shape == shape)
    assert verify(image, single.metadata).strict == 0


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("a red circle", (("circle", "red", 0), ("square", "red", 3))),  # an extra object
        ("a red circle", (("circle", "red", 0), ("circle", "red", 3))),  # two for one
        ("a red circle", (("circle", "blue", 0),)),  # colour
        ("a red circle", (("square", "red", 0),)),  # shape
        ("three squares", (("square", "red", 0), ("square", "red", 1))),  # too few
        ("two squares", (("square", "red", 0), ("square", "red", 1), ("square", "red", 2))),  # too many
        ("a circle left of a square", (("circle", "red", 1), ("square", "red", 0))),  # the other way round
        ("a circle above a square", (("circle", "red", 0), ("square", "red", 1))),  # beside it
        (
            "a red circle and a blue square",
            (("circle", "blue", 0), ("square", "red", 1)),
        ),  # attributes swapped
        ("a circle and a square", (("circle", "red", 0), ("circle", "red", 1))),
    ],
)
def test_a_wrong_scene_is_rejected(text: str, objects: tuple[tuple[str, str, int], ...]) -> None:
    caption = next(c for task in TASKS for c in captions(task) if c.text == text)
    scene = Scene(tuple(Object(shape, color, *CELLS[cell]) for shape, color, cell in objects))
    verdict = verify(render(scene), caption.metadata)
    assert verdict.strict == 0
    assert verdict.partial < 1


def test_filling_the_image_does_not_pay() -> None:
    """One object of each shape scores no more on any caption than drawing nothing but a part of it would."""
    full = render(
        Scene(tuple(Object(shape, "red", *cell) for shape, cell in zip(SHAPES, CELLS, strict=True)))
    )
    assert all(verify(full, c.metadata).partial <= 0.5 for task in TASKS for c in captions(task))


def test_foreign_metadata_is_refused() -> None:
    with pytest.raises(ValueError, match="prompts=shapes"):
        verify(render(Scene(())), {"label": 3})


def test_reward_scores_images_as_the_verifier_does() -> None:
    image, metadata = red_circle()
    images = torch.from_numpy(np.stack([image, np.ones_like(image)])).permute(0, 3, 1, 2)
    scores = ShapesReward()(images, [Prompt("a red circle", "colors", metadata)] * 2)
    assert scores["strict"].tolist() == [1.0, 0.0]
    assert scores["partial"].tolist() == [1.0, 0.0]


def test_prompts_are_balanced_and_split() -> None:
    prompts = ShapesPrompts()
    train, test = (
        {p.text for p in side if p.tag != "single_object"} for side in (prompts.train, prompts.test)
    )
    assert not train & test
    assert train | test >= {c.text for task in TASKS[1:] for c in captions(task) if not is_held_out(c)}
    for side, per_task in ((prompts.train, 104), (prompts.test, 32)):
        assert [sum(p.tag == task for p in side) for task in TASKS] == [per_task] * 6


def test_the_split_holds_out_a_caption_with_its_converse() -> None:
    converse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    held_out = {c.text: is_held_out(c) for c in captions("position")}
    for c in captions("position"):
        first, second = (w.shape for w in c.wanted)
        assert held_out[f"a {second} {converse[str(c.relation)]} a {first}"] == held_out[c.text]
