"""What the policies on diffusers pipelines share: loading whole components, and decoding in chunks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ablate.contract.errors import DivergedRun, UserError

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
