"""Stable Diffusion 3 and 3.5 from a diffusers checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ablate.contract.files import pipeline_folder
from ablate.policies.pipeline import PipelineBackbone, Texts, dtype_of, latent_shape, load, quiet

LORA_TARGETS = (  # Flow-GRPO's: every block's joint attention, and not the second one of SD3.5
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
)
_PIPELINE = "StableDiffusion3Pipeline"


class SD3Velocity(nn.Module):
    """The transformer from fp32 to fp32: its own dtype is inside, in rollout and update alike.

    Adapters stay fp32 and are cast with the activations; time enters as the float 1000 t, never rounded.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self._dtype: torch.dtype = transformer.dtype  # type: ignore[assignment]

    def forward(self, x_t: Tensor, t: Tensor, prompt_embeds: Tensor, pooled: Tensor) -> Tensor:
        """x_t [B,C,h,w], t [B], prompt_embeds [B,L,J], pooled [B,P] -> v [B,C,h,w] fp32."""
        low = self._dtype != torch.float32
        with torch.autocast(x_t.device.type, self._dtype if low else None, enabled=low):
            v: Tensor = self.transformer(
                hidden_states=x_t.to(self._dtype),
                timestep=1000 * t.float(),
                encoder_hidden_states=prompt_embeds.to(self._dtype),
                pooled_projections=pooled.to(self._dtype),
                return_dict=False,
            )[0]
        return v.float()


def sd3(
    *,
    checkpoint: str,
    resolution: int,
    dtype: str,
    vae_dtype: str,
    max_tokens: int,
    decode_batch: int,
    gradient_checkpointing: bool,
) -> PipelineBackbone:
    """A ``StableDiffusion3Pipeline`` whose transformer is frozen in ``dtype``, LoRA as Flow-GRPO has it.

    Args:
        checkpoint: a folder, or a hub id that is in the hub's cache on this machine.
        resolution: height and width of the images in pixels.
        dtype: of the frozen transformer and the text encoders; latents, velocities and adapters are fp32.
        vae_dtype: of the decoder.
        max_tokens: of the T5 encoder; a longer prompt is refused.
        decode_batch: latents decoded at a time.
        gradient_checkpointing: run each block again in the backward pass instead of keeping its activations.

    Raises:
        UserError: the checkpoint is not here, not whole, or not an SD3 pipeline.
        ValueError: ``resolution`` does not fit the transformer, or another setting is out of range.
    """
    folder = pipeline_folder(checkpoint, _PIPELINE)
    precision, image_precision = dtype_of(dtype, "dtype"), dtype_of(vae_dtype, "vae_dtype")
    with quiet():
        from diffusers import AutoencoderKL, SD3Transformer2DModel
    texts = Texts(
        folder=folder,
        kind=_PIPELINE,
        encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
        tokenizers=("tokenizer", "tokenizer_2", "tokenizer_3"),
        dtype=precision,
        max_tokens=max_tokens,
        call=_embed,
    )
    transformer: Any = load(SD3Transformer2DModel, folder, "transformer", precision)
    vae: Any = load(AutoencoderKL, folder, "vae", image_precision)
    sizes = transformer.config
    if gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    return PipelineBackbone(
        network=SD3Velocity(transformer),
        vae=vae,
        decode_batch=decode_batch,
        shape=latent_shape(
            sizes.in_channels, vae.config, sizes.patch_size, resolution, sizes.pos_embed_max_size
        ),
        lora_targets=LORA_TARGETS,
        texts=texts,
        order=("prompt_embeds", "pooled"),
    )


def _embed(pipe: Any, prompts: list[str], device: torch.device, max_tokens: int) -> Mapping[str, Tensor]:
    embeds, _, pooled, _ = pipe.encode_prompt(
        *(prompts, None, None),
        device=device,
        do_classifier_free_guidance=False,
        max_sequence_length=max_tokens,
    )
    return {"prompt_embeds": embeds, "pooled": pooled}
