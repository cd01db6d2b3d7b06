"""The shipped base: verified before use, as good as its provenance says, rebuilt to the bit by its recipe."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ablate.contract.errors import IncompatibleRun
from ablate.shapes.base import BASE, load_base
from ablate.shapes.network import ShapesNet, ShapesVelocity, tokenize
from ablate.shapes.pretrain import Recipe, draw_batch, evaluate, save, train
from ablate.shapes.scenes import TASKS, captions
from ablate.weights_file import provenance

FILES = (BASE, BASE.with_suffix(".json"))

TINY = Recipe(steps=3, blunt_steps=2, batch=8)


def metrics(guidance: int) -> Any:
    recorded: Any = provenance(BASE)["metrics"]
    return recorded[f"guidance {guidance}"]


@pytest.fixture(scope="module")
def base() -> ShapesNet:
    return load_base()


def test_the_package_file_is_small() -> None:
    assert BASE.stat().st_size <= 6 * 2**20


def test_corrupted_weights_are_refused(tmp_path: Path) -> None:
    for path in FILES:
        shutil.copy(path, tmp_path)
    copy_of = tmp_path / BASE.name
    load_base(copy_of)
    content = bytearray(copy_of.read_bytes())
    content[-1] ^= 1
    copy_of.write_bytes(content)
    with pytest.raises(IncompatibleRun, match=r"(?s)base\.safetensors has sha256 .*make base") as refusal:
        load_base(copy_of)
    assert "\n" not in str(refusal.value)
    assert str(provenance(BASE)["sha256"])[:12] in str(refusal.value)


@pytest.mark.parametrize("kept", FILES, ids=lambda path: path.name)
def test_missing_files_are_refused(tmp_path: Path, kept: Path) -> None:
    shutil.copy(kept, tmp_path)
    with pytest.raises(IncompatibleRun, match="make base"):
        load_base(tmp_path / BASE.name)


@pytest.mark.parametrize("guidance", [1, 3])
def test_recorded_scores_are_measured_again(base: ShapesNet, guidance: int) -> None:
    """Other noise, so equal up to the binomial error of both measurements."""
    again, recorded = evaluate(base, guidance, per_task=48, seed=100)["mean"], metrics(guidance)["mean"]
    p, per_task = recorded["strict"], int(str(provenance(BASE)["per_task"]))
    error = (p * (1 - p) * (1 / (48 * len(TASKS)) + 1 / (per_task * len(TASKS)))) ** 0.5
    assert abs(again["strict"] - p) <= 4 * error


def test_the_base_knows_every_task_and_guidance_helps() -> None:
    """What RL needs: something to reinforce in every task, and headroom."""
    plain, guided = metrics(1), metrics(3)
    assert 0.2 <= plain["mean"]["strict"] <= 0.4
    assert guided["mean"]["strict"] >= plain["mean"]["strict"] + 0.2
    assert all(plain[task]["strict"] >= 0.1 for task in TASKS)


def test_pretraining_is_deterministic(tmp_path: Path) -> None:
    weights = []
    for run in ("first", "second"):
        torch.manual_seed(len(run))  # what went before must not matter
        net = train(TINY)
        weights.append(torch.cat([p.flatten() for p in net.parameters()]))
    assert torch.equal(*weights)
    other = train(Recipe(seed=1, steps=3, blunt_steps=2, batch=8))
    assert not torch.equal(weights[0], torch.cat([p.flatten() for p in other.parameters()]))


def test_a_saved_base_loads_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ShapesNet()
    save(net, TINY, "a test", tmp_path / BASE.name, per_task=1)
    loaded = load_base(tmp_path / BASE.name)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in net.state_dict().items())
    assert json.loads((tmp_path / BASE.name).with_suffix(".json").read_text())["command"] == "a test"


@pytest.mark.parametrize("mismatch", [0.0, 0.5])
def test_mismatch_is_the_share_of_untrue_captions(mismatch: float) -> None:
    recipe = Recipe(batch=600, unconditional=0.25)
    honest, _ = draw_batch(recipe, 0.0, np.random.default_rng(0))
    images, texts = draw_batch(recipe, mismatch, np.random.default_rng(0))
    _, told_truly = draw_batch(recipe, 0.0, np.random.default_rng(0))
    assert torch.equal(images, honest)
    assert abs(np.mean([text == "" for text in texts]) - 0.25) < 0.07
    told = [(a, b) for a, b in zip(texts, told_truly, strict=True) if a]
    assert abs(np.mean([a != b for a, b in told]) - mismatch) < 0.08


def test_every_caption_has_its_own_tokens() -> None:
    texts = [caption.text for task in TASKS for caption in captions(task)]
    assert len({tuple(tokenize(text)) for text in [*texts, ""]}) == len(set(texts)) + 1
    with pytest.raises(ValueError, match="purple"):
        tokenize("a purple circle")


def test_velocity_points_from_the_prediction_to_the_state(base: ShapesNet) -> None:
    """``x_t - t v`` is the network's x0_hat, whatever t above the guard; a copy is apart from its source."""
    conditioning = base.encode(["a red circle", ""])
    x_t, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.9])
    v = base.velocity()(x_t, t, **conditioning)
    x0_hat = base.transformer(
        hidden_states=x_t,
        encoder_hidden_states=conditioning["prompt_embeds"],
        pooled_projections=conditioning["pooled"],
        timestep=1000 * t,
        return_dict=False,
    )[0]
    torch.testing.assert_close(x_t - t.view(-1, 1, 1, 1) * v, x0_hat)
    copied = ShapesVelocity(copy.deepcopy(base.transformer))
    assert {id(p) for p in copied.parameters()}.isdisjoint(id(p) for p in base.parameters())
    assert torch.equal(copied(x_t, t, **conditioning), v)
