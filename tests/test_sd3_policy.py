"""policy=sd35m on a tiny pipeline saved to disk: it samples as diffusers does, trains, resumes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft  # noqa: F401  # imported once here, so that no forked child pays its seconds
import pytest
import torch
from commands import command
from pieces import draws
from running import in_child, wait
from tiny_pipelines import (
    ARMS,
    CAPTIONS,
    RESOLUTION,
    TINY,
    prompt_files,
    save_sd3,
    stir,
    trains_and_resumes,
    vae,
)
from torch import Tensor

from ablate.__main__ import train_here
from ablate.contract.errors import DivergedRun, UserError
from ablate.contract.files import missing
from ablate.contract.rundir import RunDir, read_rows
from ablate.key import Key
from ablate.policies.embeddings import Embeddings
from ablate.policies.pipeline import Decoder, PipelineBackbone
from ablate.policies.policy import RolePolicy
from ablate.policies.roles import Lora
from ablate.policies.sd3 import LORA_TARGETS, sd3
from ablate.rollout import Request, collect
from ablate.samplers.grids import Double
from ablate.samplers.ode import EulerODE
from ablate.starts.noise import Noise
from ablate.train import EMBEDDINGS
from runners.local import launch

STEPS, GUIDANCE = 5, 3.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd3(tmp_path_factory.mktemp("sd3"))


def backbone(checkpoint: Path, **changes: Any) -> PipelineBackbone:
    given = {
        "resolution": RESOLUTION,
        "dtype": "float32",
        "vae_dtype": "float32",
        "max_tokens": 32,
        "decode_batch": 2,
        "gradient_checkpointing": False,
    }
    return sd3(checkpoint=str(checkpoint), **(given | changes))


def policy(checkpoint: Path, **changes: Any) -> RolePolicy:
    made = RolePolicy(
        backbone(checkpoint, **changes),
        tuning="lora",
        tunings={"lora": Lora(4, 8)},
        guidance={"ref": GUIDANCE},
        snapshots=["old"],
        device=torch.device("cpu"),
    )
    made.prepare([], checkpoint / EMBEDDINGS)  # shared by these tests: encoders are loaded once
    return made


def test_our_sampler_draws_the_stock_pipelines_image(checkpoint: Path) -> None:
    """Same noise, grid, guidance and decoder: schedule, float times, embeddings and scaling all agree."""
    from diffusers import StableDiffusion3Pipeline

    prompts, ours = list(CAPTIONS[:3]), policy(checkpoint)
    request = Request("ref", torch.arange(3), torch.arange(3), "x0", chunk=2)
    sampler, key = EulerODE(STEPS, Double(3.0)), Key(("test", "stock"))
    x0 = collect(ours, sampler, Noise(), prompts, request=request, key=key).x0
    images = ours.decode(x0)

    pipe = StableDiffusion3Pipeline.from_pretrained(checkpoint, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    stock = pipe(
        prompts,
        latents=Noise()(torch.arange(3), ours.shape, key.rows(torch.arange(3))),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        height=RESOLUTION,
        width=RESOLUTION,
        max_sequence_length=32,
        output_type="pt",
    ).images
    assert float(stock.std()) > 0.05  # not one colour
    torch.testing.assert_close(images, stock, rtol=0, atol=1e-4)


def test_adapters_are_where_the_field_puts_them(checkpoint: Path) -> None:
    """On the eight projections of the joint attention of every block, never on the second one, in fp32."""
    names = [name for name in policy(checkpoint, dtype="bfloat16").state_dict() if name.startswith("theta/")]
    layers = {name.split("transformer_blocks.")[1].rsplit(".lora_", 1)[0] for name in names}
    both = {f"{block}.{target}" for block in "01" for target in LORA_TARGETS}
    assert layers == both - {"1.attn.to_add_out"}  # the last block sends nothing back to the text
    assert all(
        parameter.dtype == torch.float32 for parameter in policy(checkpoint, dtype="bfloat16").parameters()
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_frozen_base_in_its_dtype_and_all_else_in_fp32(checkpoint: Path, dtype: str) -> None:
    made = policy(checkpoint, dtype=dtype)
    frozen = {p.dtype for n, p in made._weights._model.named_parameters() if "lora_" not in n}  # type: ignore[attr-defined]
    assert frozen == {getattr(torch, dtype)}
    x, t, cond = draws(4).normal(*made.shape), torch.linspace(0.1, 1, 4), made.encode(CAPTIONS[:4])
    v = made.velocity("theta")(x, t, cond)
    v.square().mean().backward()
    assert v.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in made.parameters())
    exact = policy(checkpoint).velocity("theta")(x, t, policy(checkpoint).encode(CAPTIONS[:4]))
    error = float((v - exact).detach().norm() / exact.detach().norm())
    assert error <= (0.03 if dtype == "bfloat16" else 0.0)  # 2^-8 a rounding, over two blocks


def test_time_is_not_rounded(checkpoint: Path) -> None:
    made, one = policy(checkpoint), torch.ones(1)
    x, cond = draws(1).normal(*made.shape), made.encode(CAPTIONS[:1])
    near, far = (made.velocity("ref")(x, 0.5 * one + delta, cond) for delta in (0.0, 4e-4))
    assert not torch.equal(near, far)  # within one of a thousand integer times


def test_gradient_checkpointing_changes_no_gradient(checkpoint: Path) -> None:
    found = []
    for switch in (False, True):
        made = policy(checkpoint, gradient_checkpointing=switch)
        x, cond = draws(2).normal(*made.shape), made.encode(CAPTIONS[:2])
        made.velocity("theta")(x, torch.tensor([0.3, 0.9]), cond).square().sum().backward()
        transformer: Any = made._backbone.network.transformer
        assert transformer.is_gradient_checkpointing == switch
        found.append([p.grad for p in made.parameters()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-5, atol=1e-7)


def test_decoding_is_the_same_in_any_chunk(checkpoint: Path) -> None:
    x0 = draws(5).normal(4, 16, 16)
    few, many = (policy(checkpoint, decode_batch=batch).decode(x0) for batch in (2, 5))
    assert few.shape == (5, 3, RESOLUTION, RESOLUTION) and few.dtype == torch.float32
    torch.testing.assert_close(few, many, rtol=0, atol=1e-5)


def test_a_decoder_that_overflows_goes_on_in_fp32() -> None:
    decoder: Any = vae()
    stir(decoder)
    x0 = draws(3).normal(4, 16, 16)
    expected = Decoder(decoder, 2)(x0)
    low = decoder.to(torch.bfloat16)
    decode, seen = low.decode, list[torch.dtype]()

    def overflowing(latents: Tensor, **options: Any) -> Any:
        seen.append(latents.dtype)
        image = decode(latents, **options)[0]
        return (image if latents.dtype == torch.float32 or len(seen) > 1 else image * float("inf"),)

    low.decode = overflowing
    images = Decoder(low, 2)(x0)
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16] and low.dtype == torch.bfloat16
    torch.testing.assert_close(images, expected, rtol=0, atol=0.02)
    with pytest.raises(DivergedRun, match="an image decoded in fp32 is not finite"):
        Decoder(low, 2)(x0 * float("nan"))


@pytest.mark.parametrize("arm", ARMS)
def test_trains_and_resumes_to_the_bit(arm: str, checkpoint: Path, tmp_path: Path) -> None:
    whole = trains_and_resumes(tmp_path, "policy=sd35m", arm, checkpoint)
    rows = read_rows(whole.metrics)
    assert len(rows) == 3 and all(row["grad_norm"] > 0 for row in rows)
    assert -1 < rows[0]["reward/compressibility/mean"] < 0


def test_from_the_command_line_on(checkpoint: Path, tmp_path: Path) -> None:
    """Planned, checked for its files, snapshot and trained; nothing is said but the lab's own lines."""
    given = [
        "policy=sd35m",
        *TINY,
        f"policy.backbone.checkpoint={checkpoint}",
        *prompt_files(tmp_path),
        "budget.iterations=1",
    ]
    told = tmp_path / "told"

    def work() -> None:
        for stream in (1, 2):
            os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.environ["RUNS_DIR"] = str(tmp_path / "runs")
        train_here([*given, "logging.wandb=disabled"])

    assert wait(in_child(work)) == 0, told.read_text()
    (config,) = (tmp_path / "runs").glob("*/config.yaml")
    assert RunDir(config.parent).read_state()["state"] == "done"
    assert "Warning" not in told.read_text() and "torchvision" not in told.read_text()


# -- what is missing or wrong


def test_a_missing_checkpoint_is_one_line_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = command(tmp_path, "ablate", "policy=sd35m")
    (line,) = err.splitlines()
    assert code == 1 and out == ""
    wanted = ["policy.backbone.checkpoint = stabilityai/stable-diffusion-3.5-medium", "hf download", "gated"]
    assert line.startswith("error: ") and all(word in line for word in wanted), line
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    with pytest.raises(UserError, match="hf download"):  # nor does the rest of a grid start
        launch(["policy=sd35m,mixture2d"], [["policy=mixture2d"], ["policy=sd35m"]], equivalences=0)
    assert not list((tmp_path / "runs").glob("*/config.yaml"))


def test_planning_a_large_policy_loads_no_torch(tmp_path: Path) -> None:
    """It composes and says what is lacking: a plan may be made where nothing can run."""
    import subprocess
    import sys

    from commands import environment

    program = (
        "import sys; from runners.plan import plan_line; from runners.view import lacking; "
        "items = plan_line(['policy=sd35m']); assert len(lacking(items)) == 3; "
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], env=environment(tmp_path)).returncode == 0


def damaged(checkpoint: Path, folder: Path, change: Callable[[Path], object]) -> str:
    shutil.copytree(checkpoint, folder)
    change(folder)
    with pytest.raises(UserError) as caught:
        backbone(folder)
    told = str(caught.value)
    assert "\n" not in told and str(folder) in told, told
    return told


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _reclass(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))


def _without_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("proj_out.weight")
    save_file(weights, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "model_index.json").unlink(), ["no readable model_index.json"]),
        (_reclass, ["it is a FluxPipeline", "needs a StableDiffusion3Pipeline"]),
        (lambda f: shutil.rmtree(f / "vae"), ["its vae is missing"]),
        (lambda f: shutil.rmtree(f / "tokenizer_2"), ["its tokenizer_2 is missing"]),
        (
            lambda f: _truncate(f / "text_encoder_3" / "model.safetensors"),
            ["text_encoder_3/model.safetensors is missing or cut short"],
        ),
        (_without_a_weight, ["transformer does not fit its config.json", "proj_out.weight"]),
    ],
)
def test_a_damaged_checkpoint_is_never_half_loaded(
    change: Callable[[Path], object], words: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    told = damaged(checkpoint, tmp_path / "copy", change)
    assert all(word in told for word in words), told


def test_a_sharded_checkpoint_needs_every_shard(checkpoint: Path, tmp_path: Path) -> None:
    from diffusers import SD3Transformer2DModel

    shutil.copytree(checkpoint, tmp_path / "copy")
    folder = tmp_path / "copy" / "transformer"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    model = SD3Transformer2DModel.from_pretrained(checkpoint, subfolder="transformer")
    model.save_pretrained(folder, max_shard_size="400KB")
    shards = sorted(folder.glob("*-of-*.safetensors"))
    assert len(shards) > 1
    node = {"_target_": "x", "backbone": {"checkpoint": str(tmp_path / "copy")}}
    config = {"policy": node | {"checkpoints": {"backbone.checkpoint": "StableDiffusion3Pipeline"}}}
    assert list(missing(config)) == []
    shards[-1].unlink()
    (told,) = missing(config)
    assert shards[-1].name in told and told.startswith("policy.backbone.checkpoint = ")


def test_a_hub_id_is_found_in_the_hubs_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--some--model"
    shutil.copytree(checkpoint, root / "snapshots" / "abc123")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc123")
    assert backbone(Path("some/model")).shape == (4, 16, 16)
    with pytest.raises(UserError, match="some/model@other: .*hf download some/model --revision other"):
        backbone(Path("some/model@other"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resolution": 30}, ["resolution = 30", "multiple of 4", "at most 64"]),
        ({"resolution": 128}, ["resolution = 128", "at most 64"]),
        ({"dtype": "int8"}, ["dtype = int8", "bfloat16"]),
        ({"decode_batch": 0}, ["decode_batch = 0"]),
    ],
)
def test_settings_are_refused(changes: dict[str, Any], words: list[str], checkpoint: Path) -> None:
    with pytest.raises(ValueError) as caught:
        backbone(checkpoint, **changes)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_prompt_beyond_the_encoders_limit_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    made = policy(checkpoint, max_tokens=8)
    with pytest.raises(UserError, match=r"'a photo of .* more than policy.backbone.max_tokens = 8"):
        made.prepare([CAPTIONS[0] * 3], tmp_path)


def test_embeddings_are_the_pipelines_own(checkpoint: Path, tmp_path: Path) -> None:
    """Repeated, in any order, and from disk; the null prompt among them."""
    from diffusers import StableDiffusion3Pipeline

    made = policy(checkpoint)
    made.prepare(CAPTIONS, tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(CAPTIONS) + 1
    asked = [CAPTIONS[2], "", CAPTIONS[0], CAPTIONS[2]]
    cond = made.encode(asked)
    pipe: Any = StableDiffusion3Pipeline.from_pretrained(checkpoint, local_files_only=True)
    with torch.no_grad():
        embeds, _, pooled, _ = pipe.encode_prompt(
            asked, None, None, do_classifier_free_guidance=False, max_sequence_length=32
        )
    torch.testing.assert_close(cond["prompt_embeds"], embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(cond["pooled"], pooled, rtol=0, atol=1e-5)
    assert isinstance(made._backbone._embeddings, Embeddings)  # type: ignore[attr-defined]
