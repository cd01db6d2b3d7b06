"""A run's adapter, loaded into the plain diffusers pipeline, draws the run's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from running import prepare
from safetensors.torch import load_file
from tiny_pipelines import CAPTIONS, RESOLUTION, save_sd3

from ablate import train
from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir
from ablate.distributed import Distributed
from ablate.export import WEIGHTS, adapter, export
from ablate.key import Key
from ablate.loop import resume
from ablate.rollout import Request, collect
from ablate.samplers.grids import Double
from ablate.samplers.ode import EulerODE
from ablate.starts.noise import Noise

STEPS, ROWS = 4, 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Path]:
    """One iteration with steps so long that they are seen, and the checkpoint it began from."""
    root = tmp_path_factory.mktemp("export")
    base = save_sd3(root / "sd3")
    for name, lines in (("train", CAPTIONS[:4]), ("test", CAPTIONS[4:])):
        (root / f"{name}.txt").write_text("\n".join(lines))
    directory = prepare(
        root,
        *("policy=sd35m", f"policy.backbone.checkpoint={base}", f"policy.backbone.resolution={RESOLUTION}"),
        *("policy.backbone.dtype=float32", "policy.backbone.vae_dtype=float32", "policy.tunings.lora.rank=4"),
        *(f"prompts.train_file={root}/train.txt", f"prompts.test_file={root}/test.txt"),
        *("batch.prompts=2", "batch.group_size=2", "batch.micro=2", "batch.rollout=2", "batch.updates=2"),
        *(
            "optimizer.lr=0.03",
            "budget.iterations=1",
            "sampler.num_steps=3",
            "evaluation.sampler.num_steps=2",
        ),
        "evaluation.samples_per_prompt=2",
    )
    train.run(directory)
    return directory, base


def test_the_exported_adapter_draws_our_image(finished: tuple[RunDir, Path], tmp_path: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    directory, base = finished
    export(directory, "theta", tmp_path)
    lab = train.assemble(directory, directory.read_config(), Distributed(0))
    resume(lab)
    key, rows = Key(("test", "export")), torch.arange(ROWS)
    request = Request("theta", rows, rows, "x0", chunk=ROWS)
    x0 = collect(
        lab.policy, EulerODE(STEPS, Double(3.0)), Noise(), CAPTIONS[:ROWS], request=request, key=key
    ).x0
    ours = lab.policy.decode(x0)

    pipe: Any = StableDiffusion3Pipeline.from_pretrained(base, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)

    def draw() -> Any:
        return pipe(
            list(CAPTIONS[:ROWS]),
            latents=Noise()(rows, lab.policy.shape, key.rows(rows)),
            num_inference_steps=STEPS,
            guidance_scale=1.0,
            height=RESOLUTION,
            width=RESOLUTION,
            max_sequence_length=128,
            output_type="pt",
        ).images

    before = draw()
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(draw(), ours, rtol=0, atol=1e-4)
    assert float((before - ours).abs().max()) > 1e-2  # and the adapter does something


def test_the_card_says_what_it_is(finished: tuple[RunDir, Path], tmp_path: Path) -> None:
    directory, base = finished
    export(directory, "ema", tmp_path / "deep" / "folder")
    text = (tmp_path / "deep" / "folder" / "README.md").read_text()
    wanted = (
        f"base_model: {base}",
        "the role ema",
        "compressibility: -",
        "over 4 images",
        "1, 4 |",
        "on cpu",
    )
    assert all(word in text for word in wanted), text
    assert (tmp_path / "deep" / "folder" / WEIGHTS).stat().st_mode & 0o777 == 0o644


def test_roles_differ_and_unknown_ones_are_refused(finished: tuple[RunDir, Path], tmp_path: Path) -> None:
    directory, _ = finished
    theta, old = (load_file(export(directory, role, tmp_path / role)) for role in ("theta", "old"))
    assert theta.keys() == old.keys() and all(
        name.startswith("transformer.transformer_blocks.") for name in theta
    )
    assert any(not torch.equal(theta[name], old[name]) for name in theta)
    with pytest.raises(UserError, match="no role 'teacher'; it has ema, old, theta"):
        export(directory, "teacher", tmp_path)


def test_the_scale_is_in_b() -> None:
    state = {
        "theta/base_model.model.transformer.x.lora_A": torch.ones(2),
        "old/base_model.model.y": torch.ones(1),
    }
    state |= {"theta/base_model.model.transformer.x.lora_B": torch.ones(2)}
    made = adapter(state, "theta", 2.0)
    assert {name: value.tolist() for name, value in made.items()} == {
        "transformer.x.lora_A.weight": [1, 1],
        "transformer.x.lora_B.weight": [2, 2],
    }


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no adapter on a diffusers pipeline"):
        export(prepare(tmp_path, "policy=mixture2d"), "ema", tmp_path)
    with pytest.raises(UserError, match="no checkpoint yet"):
        export(prepare(tmp_path, "policy=sd35m"), "ema", tmp_path)
