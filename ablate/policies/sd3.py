"""Stable Diffusion 3 and 3.5 from a diffusers checkpoint: a frozen base, and what it needs of a prompt."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ablate.contract.errors import UserError
from ablate.contract.files import pipeline_folder
from ablate.policies.embeddings import Embeddings, Encode, fingerprint
from ablate.policies.pipeline import Decoder, dtype_of, load, quiet
from ablate.types import Cond

_PIPELINE = "StableDiffusion3Pipeline"
_TEXT = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")


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


class SD3:
    """A ``StableDiffusion3Pipeline``, LoRA on the attention of the joint blocks as Flow-GRPO has it.

    The second attention of SD3.5's dual blocks (``attn2``) has no adapters.

    Args:
        checkpoint: a folder, or a hub id that is in the hub's cache on this machine.
        resolution: height and width of the images in pixels.
        dtype: of the frozen transformer and the text encoders; latents, velocities and adapters are fp32.
        vae_dtype: of the decoder.
        max_tokens: tokens of the T5 encoder; a longer prompt is refused.
        decode_batch: latents decoded at a time.
        gradient_checkpointing: run each block again in the backward pass instead of keeping its activations.

    Raises:
        UserError: the checkpoint is not here, not whole, or not an SD3 pipeline.
        ValueError: ``resolution`` does not fit the transformer, or another setting is out of range.
    """

    lora_targets: Sequence[str] = (
        *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    )

    def __init__(
        self,
        *,
        checkpoint: str,
        resolution: int,
        dtype: str,
        vae_dtype: str,
        max_tokens: int,
        decode_batch: int,
        gradient_checkpointing: bool,
    ) -> None:
        self._folder = pipeline_folder(checkpoint, _PIPELINE)
        self._dtype, self._max_tokens = dtype_of(dtype, "dtype"), max_tokens
        image_dtype = dtype_of(vae_dtype, "vae_dtype")
        absent = [name for name in _TEXT if not (self._folder / name).is_dir()]
        if absent:
            raise UserError(
                f"{checkpoint} has no {absent[0]}: prompts are embedded by all three text encoders"
            )
        with quiet():
            from diffusers import AutoencoderKL, SD3Transformer2DModel

        transformer: Any = load(SD3Transformer2DModel, self._folder, "transformer", self._dtype)
        self._vae: Any = load(AutoencoderKL, self._folder, "vae", image_dtype)
        self._decoder = Decoder(self._vae, decode_batch)
        self.shape = _latent_shape(transformer.config, self._vae.config, resolution)
        if gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.network: nn.Module = SD3Velocity(transformer)
        self._width = int(transformer.config.joint_attention_dim)
        self._device = torch.device("cpu")
        self._embeddings = Embeddings(self._encoders, self._identity())

    def prepare(self, prompts: Sequence[str], folder: Path) -> None:
        """Embed prompts, now, into ``folder``, so that no text encoder is loaded later."""
        self._embeddings = Embeddings(self._encoders, self._identity(), folder)
        self._embeddings.fill(prompts)

    def encode(self, prompts: Sequence[str]) -> Cond:
        found = self._embeddings(prompts)
        return {name: found[name] for name in ("prompt_embeds", "pooled")}  # as the network takes them

    def decode(self, x0: Tensor) -> Tensor:
        return self._decoder(x0)

    def to(self, device: torch.device) -> SD3:
        self.network.to(device)
        self._vae.to(device)
        self._device = device
        return self

    def _identity(self) -> str:
        told = fingerprint(self._folder / name for name in _TEXT)
        return f"sd3 {told} {self._dtype} {self._max_tokens}"

    @contextmanager
    def _encoders(self) -> Iterator[Encode]:
        """The pipeline's own text encoders and ``encode_prompt``; freed at the end."""
        parts: dict[str, Any] = {"transformer": None, "vae": None, "scheduler": None}
        with quiet():
            import diffusers

            kind: Any = diffusers.StableDiffusion3Pipeline
            pipe = kind.from_pretrained(self._folder, torch_dtype=self._dtype, local_files_only=True, **parts)
        for name in _TEXT[:3]:
            if getattr(pipe, name) is not None:
                getattr(pipe, name).to(self._device)

        def encode(prompts: Sequence[str]) -> Mapping[str, Tensor]:
            self._check_lengths(pipe, prompts)
            embeds, _, pooled, _ = pipe.encode_prompt(
                *(list(prompts), None, None),
                device=self._device,
                do_classifier_free_guidance=False,
                max_sequence_length=self._max_tokens,
            )
            return {"prompt_embeds": embeds, "pooled": pooled}

        try:
            yield encode
        finally:
            for name in _TEXT[:3]:
                setattr(pipe, name, None)
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _check_lengths(self, pipe: Any, prompts: Sequence[str]) -> None:
        for prompt in prompts:
            count = len(pipe.tokenizer_3(prompt).input_ids)
            if count > self._max_tokens:
                raise UserError(
                    f"the prompt {prompt[:60]!r}... has {count} tokens, more than "
                    f"policy.backbone.max_tokens = {self._max_tokens}; shorten it, or raise max_tokens"
                )


def _latent_shape(transformer: Any, vae: Any, resolution: int) -> tuple[int, int, int]:
    factor = 2 ** (len(vae.block_out_channels) - 1)
    patch = factor * transformer.patch_size
    largest = patch * transformer.pos_embed_max_size
    if resolution % patch or not 0 < resolution <= largest:
        raise ValueError(
            f"policy.backbone.resolution = {resolution} must be a multiple of {patch}, at most {largest}"
        )
    return (int(transformer.in_channels), resolution // factor, resolution // factor)
