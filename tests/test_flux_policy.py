"""policy=flux on a tiny pipeline saved to disk: it samples as diffusers does, trains, resumes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import peft  # noqa: F401  # imported once here, so that no forked child pays its seconds
import pytest
import torch
from tiny_pipelines import (
    ARMS,
    CAPTIONS,
    RESOLUTION,
    save_flux,
    trains_and_resumes,
)

from ablate.contract.errors import UserError
from ablate.contract.rundir import read_rows
from ablate.key import Key
from ablate.policies.flux import FluxVelocity, flux
from ablate.policies.policy import RolePolicy
from ablate.policies.roles import Lora
from ablate.policies.sd3 import sd3
from ablate.rollout import Request, collect
from ablate.samplers.grids import Single
from ablate.samplers.ode import EulerODE
from ablate.starts.noise import Noise

STEPS, ROWS, DISTILLED = 4, 3, 2.5
SETTINGS: dict[str, Any] = {
    "resolution": RESOLUTION,
    "dtype": "float32",
    "vae_dtype": "float32",
    "max_tokens": 32,
    "decode_batch": 2,
    "gradient_checkpointing": False,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_flux(tmp_path_factory.mktemp("flux"))


def test_our_sampler_draws_the_stock_pipelines_image(checkpoint: Path) -> None:
    """Same noise and steps: packing, positions, distilled guidance, times and the shift all agree."""
    from diffusers import FluxPipeline

    policy = RolePolicy(
        flux(checkpoint=str(checkpoint), distilled_guidance=DISTILLED, **SETTINGS),
        tuning="lora",
        tunings={"lora": Lora(4, 8)},
        guidance={},
        snapshots=["old"],
        device=torch.device("cpu"),
    )
    prompts, rows, key = list(CAPTIONS[:ROWS]), torch.arange(ROWS), Key(("test", "flux"))
    slope = (1.15 - 0.5) / (4096 - 256)
    sampler = EulerODE(STEPS, Single(math.exp(0.5 + slope * (64 - 256))))  # 64 tokens
    request = Request("ref", rows, rows, "x0", chunk=2)
    images = policy.decode(collect(policy, sampler, Noise(), prompts, request=request, key=key).x0)

    pipe: Any = FluxPipeline.from_pretrained(checkpoint, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    noise = Noise()(rows, policy.shape, key.rows(rows))
    stock = pipe(
        prompts,
        latents=pipe._pack_latents(noise, ROWS, *policy.shape),
        num_inference_steps=STEPS,
        guidance_scale=DISTILLED,
        height=RESOLUTION,
        width=RESOLUTION,
        max_sequence_length=32,
        output_type="pt",
    ).images
    assert float(stock.std()) > 0.05  # not one colour
    torch.testing.assert_close(images, stock, rtol=0, atol=1e-4)


@pytest.mark.parametrize("arm", ARMS)
def test_trains_and_resumes_to_the_bit(arm: str, checkpoint: Path, tmp_path: Path) -> None:
    rows = read_rows(trains_and_resumes(tmp_path, "policy=flux", arm, checkpoint).metrics)
    assert len(rows) == 3 and all(row["grad_norm"] > 0 for row in rows)


def test_one_family_is_not_loaded_as_another(checkpoint: Path) -> None:
    with pytest.raises(
        UserError, match="it is a FluxPipeline, and this policy needs a StableDiffusion3Pipeline"
    ):
        sd3(checkpoint=str(checkpoint), **SETTINGS)


def test_a_model_that_is_not_distilled_is_told_no_guidance(checkpoint: Path) -> None:
    network: Any = flux(checkpoint=str(checkpoint), distilled_guidance=DISTILLED, **SETTINGS).network
    assert network._distilled == DISTILLED
    network.transformer.register_to_config(guidance_embeds=False)
    assert FluxVelocity(network.transformer, DISTILLED)._distilled is None
