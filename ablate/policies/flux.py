"""FLUX.1 from a diffusers checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ablate.contract.files import pipeline_folder
from ablate.policies.pipeline import PipelineBackbone, Texts, dtype_of, latent_shape, load, quiet

LORA_TARGETS = (  # attention and feed-forward of the double blocks, attention of the single ones: Flow-GRPO's
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
)
_PIPELINE = "FluxPipeline"
_PATCH, _LARGEST = (
    2,
    128,
)  # latents of a token's side; tokens a side at which FLUX is used at most: 2048 pixels


class FluxVelocity(nn.Module):
    """The transformer on unpacked latents, from fp32 to fp32: its own dtype is inside.

    Args:
        distilled: the guidance a guidance-distilled model is told; without meaning for the others.
    """

    def __init__(self, transformer: nn.Module, distilled: float) -> None:
        super().__init__()
        self.transformer = transformer
        self._dtype: torch.dtype = transformer.dtype  # type: ignore[assignment]
        config: Any = transformer.config
        self._distilled = distilled if config.guidance_embeds else None

    def forward(self, x_t: Tensor, t: Tensor, prompt_embeds: Tensor, pooled: Tensor) -> Tensor:
        """x_t [B,C,h,w], t [B], prompt_embeds [B,L,J], pooled [B,P] -> v [B,C,h,w] fp32."""
        height, width = x_t.shape[2] // _PATCH, x_t.shape[3] // _PATCH
        rows = torch.arange(height, device=x_t.device).repeat_interleave(width)
        columns = torch.arange(width, device=x_t.device).repeat(height)
        low = self._dtype != torch.float32
        with torch.autocast(x_t.device.type, self._dtype if low else None, enabled=low):
            v: Tensor = self.transformer(
                hidden_states=_packed(x_t).to(self._dtype),
                timestep=t.float(),
                guidance=None if self._distilled is None else torch.full_like(t.float(), self._distilled),
                encoder_hidden_states=prompt_embeds.to(self._dtype),
                pooled_projections=pooled.to(self._dtype),
                txt_ids=torch.zeros(prompt_embeds.shape[1], 3, device=x_t.device),
                img_ids=torch.stack([torch.zeros_like(rows), rows, columns], 1).float(),
                return_dict=False,
            )[0]
        return _unpacked(v, height, width).float()


def flux(
    *,
    checkpoint: str,
    resolution: int,
    dtype: str,
    vae_dtype: str,
    max_tokens: int,
    decode_batch: int,
    gradient_checkpointing: bool,
    distilled_guidance: float,
) -> PipelineBackbone:
    """A ``FluxPipeline`` whose transformer is frozen in ``dtype``; arguments as in ``ablate.policies.sd3``.

    Args:
        distilled_guidance: told to a guidance-distilled model; a role's guidance extrapolates on top of it.

    Raises:
        UserError: the checkpoint is not here, not whole, or not a FLUX pipeline.
        ValueError: a setting is out of range.
    """
    folder = pipeline_folder(checkpoint, _PIPELINE)
    precision, image_precision = dtype_of(dtype, "dtype"), dtype_of(vae_dtype, "vae_dtype")
    with quiet():
        from diffusers import AutoencoderKL, FluxTransformer2DModel
    texts = Texts(
        folder=folder,
        kind=_PIPELINE,
        encoders=("text_encoder", "text_encoder_2"),
        tokenizers=("tokenizer", "tokenizer_2"),
        dtype=precision,
        max_tokens=max_tokens,
        call=_embed,
    )
    transformer: Any = load(FluxTransformer2DModel, folder, "transformer", precision)
    vae: Any = load(AutoencoderKL, folder, "vae", image_precision)
    if gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    return PipelineBackbone(
        network=FluxVelocity(transformer, distilled_guidance),
        vae=vae,
        decode_batch=decode_batch,
        shape=latent_shape(transformer.config.in_channels // 4, vae.config, _PATCH, resolution, _LARGEST),
        lora_targets=LORA_TARGETS,
        texts=texts,
        order=("prompt_embeds", "pooled"),
    )


def _packed(x: Tensor) -> Tensor:
    """[B,C,2h,2w] -> [B,h*w,4C]: a token is a square of four latents."""
    return nn.functional.pixel_unshuffle(x, _PATCH).flatten(2).transpose(1, 2)


def _unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """[B,h*w,4C] -> [B,C,2h,2w]."""
    return nn.functional.pixel_shuffle(tokens.transpose(1, 2).reshape(len(tokens), -1, height, width), _PATCH)


def _embed(pipe: Any, prompts: list[str], device: torch.device, max_tokens: int) -> Mapping[str, Tensor]:
    embeds, pooled, _ = pipe.encode_prompt(prompts, None, device=device, max_sequence_length=max_tokens)
    return {"prompt_embeds": embeds, "pooled": pooled}
