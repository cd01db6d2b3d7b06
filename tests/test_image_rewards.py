"""Rewards of real images: JPEG size, the rules of GenEval and of OCR, and what they refuse."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from ablate.contract.errors import IncompatibleRun, UserError
from ablate.contract.files import missing
from ablate.rewards.detectors import CLASSES
from ablate.rewards.geneval import GenEval
from ablate.rewards.geneval_rules import Detection, correct, found, relations, training_reward
from ablate.rewards.jpeg import JpegSize
from ablate.rewards.ocr import OCR, RapidOCR, accuracy, levenshtein, quoted
from ablate.types import Prompt

ANY = Prompt("a cat", "prompt")


def test_jpeg_is_the_size_of_a_file() -> None:
    images = torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    images[1] = 0.5
    scores = JpegSize({"compressibility": 1.0}, "compressibility", 95)(images, [ANY] * 3)
    assert scores["compressibility"][1] > scores["compressibility"][0]  # grey compresses
    buffer = io.BytesIO()
    pixels = (images[2] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95)
    assert float(scores["incompressibility"][2]) == pytest.approx(len(buffer.getvalue()) / 1000 / 500)
    assert torch.equal(scores["compressibility"], -scores["incompressibility"])


def test_jpeg_refuses_what_is_no_image() -> None:
    made = JpegSize({"compressibility": 1.0}, "compressibility", 95)
    for images in (torch.zeros(2, 2), torch.zeros(2, 4, 8, 8), torch.zeros(1, 3, 8, 8)):
        with pytest.raises(IncompatibleRun, match="one per prompt"):
            made(images, [ANY] * 2)
    with pytest.raises(ValueError, match=r"quality = 100 must lie in 1..95"):
        JpegSize({}, "compressibility", 100)


# -- GenEval


def at(
    label: str, x: float = 0, y: float = 0, color: str = "", score: float = 0.95, size: float = 10
) -> Detection:
    return Detection(label, score, (x, y, x + size, y + size), color)


def clause(label: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": label, "count": count, **more}


LEFT = {"include": [clause("dog"), clause("cat", position=["left of", 0])]}
RED = {"include": [clause("cat", color="red")]}
TWO = {"include": [clause("cat"), clause("dog")]}
COUNT = {"include": [clause("cat", 3)], "exclude": [clause("cat", 4)]}
CASES: dict[str, tuple[dict[str, Any], list[Detection], float, float, bool, bool]] = {
    # metadata, detections, reward as published, reward mended, strict, correct
    "one of one": ({"include": [clause("cat")]}, [at("cat")], 1, 1, True, True),
    "two of one": ({"include": [clause("cat")]}, [at("cat")] * 2, 0, 0, False, True),
    "three of one": ({"include": [clause("cat")]}, [at("cat")] * 3, -1, 0, False, True),
    "sixteen of one": ({"include": [clause("cat")]}, [at("cat")] * 30, -14, 0, False, True),
    "none of one": ({"include": [clause("cat")]}, [at("dog")], 0, 0, False, False),
    "both": (TWO, [at("cat"), at("dog")], 1, 1, True, True),
    "one of both": (TWO, [at("dog")], 0.5, 0.5, False, False),
    "right color": (RED, [at("cat", color="red")], 1, 1, True, True),
    "wrong color": (RED, [at("cat", color="blue")], 0.5, 0.5, False, False),
    "no object to be red": (RED, [], 0, 0, False, False),
    "right place": (LEFT, [at("dog", 50), at("cat", 0)], 1, 1, True, True),
    "wrong place": (LEFT, [at("dog", 0), at("cat", 50)], 0.75, 2 / 3, False, False),
    "no target": (LEFT, [at("cat", 0)], 1 / 3, 1 / 3, False, False),
    "target twice": (LEFT, [at("dog", 50), at("dog", 70), at("cat", 0)], 1 / 3, 1 / 3, False, True),
    "three": (COUNT, [at("cat")] * 3, 1, 1, True, True),
    "four of three": (COUNT, [at("cat")] * 4, 2 / 3, 2 / 3, False, False),
    "two of three": (COUNT, [at("cat")] * 2, 2 / 3, 2 / 3, False, False),
    "color and place, none there": (
        {"include": [clause("dog"), clause("cat", color="red", position=["left of", 0])]},
        [at("dog", 50)],
        1 / 3,
        1 / 3,
        False,
        False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_genevals_rules(case: str) -> None:
    metadata, detections, published, mended, strict, right = CASES[case]
    objects = found(detections, "any")
    assert training_reward(objects, metadata, parity=True) == (pytest.approx(published), strict)
    assert training_reward(objects, metadata, parity=False) == (pytest.approx(mended), strict)
    assert correct(objects, metadata) == right


def test_only_the_best_objects_are_looked_at() -> None:
    """For accuracy; the training reward looks at all of them."""
    cats = [at("cat", color="blue", score=0.5), at("cat", color="red", score=0.9)]
    assert correct(found(cats, "colors"), RED)
    assert not training_reward(found(cats, "colors"), RED, parity=True)[1]


@pytest.mark.parametrize(("score", "tag", "counts"), [(0.3, "t", 0), (0.31, "t", 1), (0.9, "counting", 0)])
def test_what_counts_as_an_object(score: float, tag: str, counts: int) -> None:
    assert len(found([at("cat", score=score)], tag).get("cat", ())) == counts


@pytest.mark.parametrize(
    ("x", "y", "named"),
    [
        (30, 0, {"right of"}),
        (-30, 0, {"left of"}),
        (0, 30, {"below"}),
        (0, -30, {"above"}),
        (30, 30, {"right of", "below"}),
        (1.9, 0, set()),  # a tenth of both sizes is 2
        (2.1, 0, {"right of"}),
        (30, 10, {"right of"}),
    ],
)
def test_where_one_object_is_of_another(x: float, y: float, named: set[str]) -> None:
    assert relations(at("cat", x, y), at("dog")) == named


@given(st.tuples(*[st.floats(-100, 100)] * 4))
def test_relations_are_opposite(place: tuple[float, float, float, float]) -> None:
    a, b = at("cat", *place[:2]), at("dog", *place[2:])
    other = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert {other[name] for name in relations(a, b)} == relations(b, a)


def test_geneval_as_a_reward() -> None:
    seen: list[Sequence[frozenset[str]]] = []

    def detector(images: Tensor, colored: Sequence[frozenset[str]]) -> list[list[Detection]]:
        seen.append(colored)
        return [[at("cat", color="red")], [at("dog", 0), at("cat", 50)]]

    made = GenEval({"score": 1.0}, "correct", detector, parity=True)
    prompts = [Prompt("a red cat", "colors", RED), Prompt("a cat left of a dog", "position", LEFT)]
    scores = made(torch.zeros(2, 3, 8, 8), prompts)
    assert {name: value.tolist() for name, value in scores.items()} == {
        "score": [1.0, 0.75],
        "strict": [1.0, 0.0],
        "correct": [1.0, 0.0],
    }
    assert seen == [[frozenset({"cat"}), frozenset()]]
    with pytest.raises(IncompatibleRun, match="reward=geneval cannot judge the prompt 'a cat'"):
        made(torch.zeros(1, 3, 8, 8), [ANY])


def test_the_detectors_models_are_looked_for_before_a_run(compose: Any) -> None:
    config = compose("policy=sd35m", "reward=geneval")
    told = [line for line in missing(config) if line.startswith("reward.")]
    assert len(told) == 2 and all("hf download" in line for line in told)
    assert len(CLASSES) == len(set(CLASSES)) == 80


# -- OCR


@pytest.mark.parametrize(
    ("read", "target", "expected"),
    [
        ("Hello World", "Hello World", 1),
        ("HELLOWORLD", "hello world", 1),
        ("xx hello world yy", "Hello World", 1),
        ("abcdefghix", "abcdefghij", 0.9),
        ("", "hello", 0),
        ("something else entirely", "no", 0),
        ("hell", "hello", 0.8),
    ],
)
def test_ocrs_rule(read: str, target: str, expected: float) -> None:
    assert accuracy(read, target) == pytest.approx(expected)


words = st.text("abc", max_size=6)


@given(words, words, words)
def test_levenshtein_is_a_distance(a: str, b: str, c: str) -> None:
    assert levenshtein(a, b) == levenshtein(b, a)
    assert (levenshtein(a, b) == 0) == (a == b)
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)
    assert abs(len(a) - len(b)) <= levenshtein(a, b) <= max(len(a), len(b))
    assert levenshtein(a, a + c) == len(c)


def test_the_quoted_text() -> None:
    assert quoted('a sign that says "Open Now" and "closed"') == "Open Now"
    for prompt in ("a sign", 'a "', 'an empty "" sign', 'a blank " " sign'):
        with pytest.raises(IncompatibleRun, match="it quotes no text"):
            quoted(prompt)


def test_ocr_as_a_reward() -> None:
    made = OCR({"accuracy": 1.0}, "accuracy", lambda images: ["OPEN", "nothing"])
    prompts = [Prompt('a sign "open"', "ocr"), Prompt('a door "push"', "ocr")]
    assert made(torch.zeros(2, 3, 8, 8), prompts)["accuracy"].tolist() == [1.0, 0.0]


def test_a_missing_recogniser_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(IncompatibleRun, match="pip install rapidocr onnxruntime"):
        RapidOCR(0.0)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    from ablate.contract.files import model_folder

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    CLIPTextModel(CLIPTextConfig(vocab_size=16, **sizes)).save_pretrained(tmp_path)
    assert model_folder(str(tmp_path), "CLIPTextModel") == tmp_path
    with pytest.raises(UserError, match="it is a CLIPTextModel, and this part needs a CLIPModel"):
        model_folder(str(tmp_path), "CLIPModel")


def test_the_detector_runs_on_tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes lie in the image, labels are GenEval's, colors only where asked."""
    import transformers as t
    from tiny_pipelines import clip_tokenizer

    from ablate.rewards import detectors

    stages = {
        "depths": [1] * 4,
        "num_heads": [1, 1, 2, 2],
        "out_features": [f"stage{i}" for i in (1, 2, 3, 4)],
    }
    backbone = t.SwinConfig(image_size=64, embed_dim=16, window_size=4, **stages)
    wide = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "dim_feedforward"), 32)
    small = {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 5, "num_attention_heads": 2}
    config = t.Mask2FormerConfig(
        backbone_config=backbone, encoder_feedforward_dim=32, num_labels=80, **wide, **small
    )
    t.Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path / "eyes")
    t.Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "eyes")
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 1, **tower}
    vision = {"image_size": 64, "patch_size": 16, **tower}
    clip = t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    t.CLIPModel(clip).save_pretrained(tmp_path / "clip")
    crop = t.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    t.CLIPProcessor(crop, clip_tokenizer(tmp_path / "words")).save_pretrained(tmp_path / "clip")

    monkeypatch.setattr(detectors, "LEAST_SCORE", 0.0)  # untrained, it is sure of nothing
    made = detectors.Mask2Former(str(tmp_path / "eyes"), str(tmp_path / "clip"), batch=2)
    images = torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    plain, colored, _ = made(images, [frozenset(), frozenset(CLASSES), frozenset()])
    assert plain and colored
    assert {detection.color for detection in plain} == {""}
    assert {detection.color for detection in colored} <= set(detectors.COLORS)
    for detection in [*plain, *colored]:
        left, top, right, bottom = detection.box
        assert 0 <= left < right <= 64 and 0 <= top < bottom <= 48 and detection.label in CLASSES
