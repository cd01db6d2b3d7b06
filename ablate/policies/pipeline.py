"""What the policies on diffusers pipelines share: loading, text encoders that come and go, decoding."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ablate.contract.errors import DivergedRun, UserError
from ablate.policies.embeddings import Embeddings, Encode, fingerprint
from ablate.types import Cond

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def dtype_of(name: str, field: str) -> torch.dtype:
    """bfloat16, float16 or float32.

    Raises:
        ValueError: it is none of them.
    """
    if name not in _DTYPES:
        raise ValueError(f"policy.backbone.{field} = {name} must be one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def load(kind: Any, folder: Path, component: str, dtype: torch.dtype) -> nn.Module:
    """A component of a pipeline's folder: in evaluation mode, frozen, and with every weight from disk.

    Raises:
        UserError: a weight is missing or of another shape, or the files cannot be read.
    """
    try:
        with quiet():
            model, info = kind.from_pretrained(
                folder,
                subfolder=component,
                torch_dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}/{component} cannot be loaded: {str(error).splitlines()[0]}") from error
    odd = [*info["missing_keys"], *info["mismatched_keys"], *info["unexpected_keys"]]
    if odd:
        raise UserError(
            f"{folder}/{component} does not fit its config.json: {len(odd)} weights are missing, of another "
            f"shape or unknown (first: {odd[0]}); fetch the checkpoint again"
        )
    loaded: nn.Module = model.eval().requires_grad_(False)
    return loaded


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and notices of the libraries that load: a run says what it does in its own lines."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the name torch_dtype, which older versions need
        yield


class Decoder:
    """``vae(x0 / scaling + shift)`` as images [n,3,H,W] in [0,1], fp32; ``batch`` at a time.

    A chunk that is not finite in the VAE's dtype is decoded again in fp32.

    Raises:
        ValueError: ``batch < 1``.
    """

    def __init__(self, vae: nn.Module, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"policy.backbone.decode_batch = {batch} must be at least 1")
        self._vae: Any = vae
        self._batch, self._dtype = batch, vae.dtype

    def __call__(self, x0: Tensor) -> Tensor:
        """Raises DivergedRun where not even fp32 is finite."""
        config = self._vae.config
        latents = x0 / config.scaling_factor + (config.shift_factor or 0.0)
        return torch.cat([self._images(part) for part in latents.split(self._batch)])

    def _images(self, latents: Tensor) -> Tensor:
        images = self._decode(latents)
        if not images.isfinite().all() and self._dtype != torch.float32:
            self._vae.to(torch.float32)
            images = self._decode(latents)
            self._vae.to(self._dtype)
        if not images.isfinite().all():
            worst = float(latents.abs().max())
            raise DivergedRun(
                f"an image decoded in fp32 is not finite (largest |latent| {worst:.3g}); "
                "the last checkpoint is kept: lower optimizer.lr or raise regularizer.kl_coef"
            )
        return (images / 2 + 0.5).clamp(0, 1)

    def _decode(self, latents: Tensor) -> Tensor:
        decoded: Tensor = self._vae.decode(latents.to(self._vae.dtype), return_dict=False)[0]
        return decoded.float()


@dataclass(frozen=True)
class Texts:
    """A pipeline's text encoders, on a device only while prompts are encoded.

    Attributes:
        folder: the pipeline's.
        kind: its class in diffusers.
        encoders, tokenizers: names of its components; ``max_tokens`` limits the last tokenizer.
        dtype: the encoders'.
        call: the pipeline, prompts, a device and ``max_tokens`` -> tensors, batch first.

    Raises:
        UserError: the checkpoint lacks a component, or a prompt is too long.
    """

    folder: Path
    kind: str
    encoders: Sequence[str]
    tokenizers: Sequence[str]
    dtype: torch.dtype
    max_tokens: int
    call: Callable[[Any, list[str], torch.device, int], Mapping[str, Tensor]]

    def __post_init__(self) -> None:
        absent = [name for name in (*self.encoders, *self.tokenizers) if not (self.folder / name).is_dir()]
        if absent:
            raise UserError(
                f"{self.folder} has no {absent[0]}, and prompts are embedded by all text encoders"
            )

    @property
    def identity(self) -> str:
        """What the embeddings depend on besides the prompt."""
        told = fingerprint(self.folder / name for name in (*self.encoders, *self.tokenizers))
        return f"{self.kind} {told} {self.dtype} {self.max_tokens}"

    @contextmanager
    def loaded(self, device: torch.device) -> Iterator[Encode]:
        """Prompts to embeddings; the encoders are freed at the end."""
        absent: dict[str, Any] = {"transformer": None, "vae": None, "scheduler": None}
        with quiet():
            import diffusers

            kind: Any = getattr(diffusers, self.kind)
            pipe = kind.from_pretrained(self.folder, torch_dtype=self.dtype, local_files_only=True, **absent)
        for name in self.encoders:
            getattr(pipe, name).to(device)

        def encode(prompts: Sequence[str]) -> Mapping[str, Tensor]:
            self._check_lengths(getattr(pipe, self.tokenizers[-1]), prompts)
            return self.call(pipe, list(prompts), device, self.max_tokens)

        try:
            yield encode
        finally:
            for name in self.encoders:
                setattr(pipe, name, None)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _check_lengths(self, tokenizer: Any, prompts: Sequence[str]) -> None:
        for prompt in prompts:
            count = len(tokenizer(prompt).input_ids)
            if count > self.max_tokens:
                raise UserError(
                    f"the prompt {prompt[:60]!r}... has {count} tokens, more than "
                    f"policy.backbone.max_tokens = {self.max_tokens}; shorten it, or raise max_tokens"
                )


class PipelineBackbone:
    """A ``Backbone`` made of a pipeline's parts.

    Args:
        network: the velocity, fp32 to fp32.
        order: names of what ``texts`` gives, in the order in which the network takes them.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        vae: nn.Module,
        decode_batch: int,
        shape: tuple[int, ...],
        lora_targets: Sequence[str],
        texts: Texts,
        order: Sequence[str],
    ) -> None:
        self.network, self.shape, self.lora_targets = network, shape, lora_targets
        self._vae, self._decoder = vae, Decoder(vae, decode_batch)
        self._texts, self._order = texts, order
        self._device = torch.device("cpu")
        self._embeddings = Embeddings(self._encoders, texts.identity)

    def prepare(self, prompts: Sequence[str], folder: Path) -> None:
        """Embed prompts, now, into ``folder``, so that no text encoder is loaded later."""
        self._embeddings = Embeddings(self._encoders, self._texts.identity, folder)
        self._embeddings.fill(prompts)

    def encode(self, prompts: Sequence[str]) -> Cond:
        unique = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        found = self._embeddings(list(unique))
        rows = torch.tensor([unique[prompt] for prompt in prompts], device=self._device)
        return {name: found[name].to(self._device)[rows] for name in self._order}  # repeated on the device

    def decode(self, x0: Tensor) -> Tensor:
        return self._decoder(x0)

    def to(self, device: torch.device) -> PipelineBackbone:
        self.network.to(device)
        self._vae.to(device)
        self._device = device
        return self

    def _encoders(self) -> Any:
        return self._texts.loaded(self._device)


def latent_shape(channels: int, vae: Any, patch: int, resolution: int, largest: int) -> tuple[int, int, int]:
    """Latents of a square image of ``resolution`` pixels; ``largest`` patches a side at most.

    Raises:
        ValueError: the resolution is no multiple of what a patch covers, or too large.
    """
    factor = 2 ** (len(vae.block_out_channels) - 1)
    if resolution % (factor * patch) or not 0 < resolution <= factor * patch * largest:
        raise ValueError(
            f"policy.backbone.resolution = {resolution} must be a multiple of {factor * patch}, "
            f"at most {factor * patch * largest}"
        )
    return (channels, resolution // factor, resolution // factor)
