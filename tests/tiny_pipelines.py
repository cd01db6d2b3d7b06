"""Whole SD3 and FLUX pipelines with random weights, small enough for tests; nothing is downloaded."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from running import finish, in_child, outcome, prepare, same, wait
from torch import nn

from ablate.contract.rundir import RunDir, read_rows
from ablate.learners.default import DefaultLearner
from ablate.policies.pipeline import Texts
from ablate.train import EMBEDDINGS, run

CAPTIONS = (
    "a photo of a red cat",
    "two dogs on a blue chair",
    "a sign that says hello",
    "a green bird above a bench",
    "three small boats at night",
    "an old clock",
)
RESOLUTION = 32


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's byte alphabet without merges: 514 entries."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def t5_tokenizer(folder: Path) -> Any:
    """A unigram tokenizer trained on the captions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import T5Tokenizer

    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    unigram.train_from_iterator(CAPTIONS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    unigram.save(str(folder / "tokenizer.json"))
    return T5Tokenizer(tokenizer_file=str(folder / "tokenizer.json"), extra_ids=0, model_max_length=77)


def _clip() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 1}
    config = CLIPTextConfig(**sizes, **words, max_position_embeddings=77, projection_dim=32)
    made: nn.Module = CLIPTextModelWithProjection(config)
    return made


def _t5(tokenizer: Any) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=len(tokenizer) + 8, d_model=64, d_kv=16, d_ff=64, num_layers=2, num_heads=4)
    made: nn.Module = T5EncoderModel(config)
    return made


def vae(channels: int = 4) -> nn.Module:
    """Latents [n,channels,16,16] <-> images of 32 x 32."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(  # type: ignore[no-any-return]
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=RESOLUTION,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.06,
    )


def transformer() -> nn.Module:
    """SD3.5's kind: normalised queries and keys, a second attention in the first block."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(  # type: ignore[no-any-return]
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        caption_projection_dim=64,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def stir(*modules: nn.Module) -> None:
    """Random weights everywhere: diffusers starts some layers at 0, where a network would say nothing."""
    for module in modules:
        module.eval()
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.5 / parameter[0].numel() ** 0.5)


def save_sd3(folder: Path) -> Path:
    """Write a tiny ``StableDiffusion3Pipeline`` to ``folder``; the same bits every time."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    words, tokens = clip_tokenizer(folder / ".clip"), t5_tokenizer(folder / ".t5")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {
            "transformer": transformer(),
            "vae": vae(),
            "text_encoder": _clip(),
            "text_encoder_2": _clip(),
            "text_encoder_3": _t5(tokens),
        }
        stir(*parts.values())
    pipe = StableDiffusion3Pipeline(
        **parts,
        tokenizer=words,
        tokenizer_2=words,
        tokenizer_3=tokens,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.save_pretrained(folder)
    return folder


def save_flux(folder: Path) -> Path:
    """Write a tiny ``FluxPipeline`` to ``folder``: guidance-distilled, with FLUX's dynamic shift."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    words, tokens = clip_tokenizer(folder / ".clip"), t5_tokenizer(folder / ".t5")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip: Any = _clip()
        parts = {
            "transformer": FluxTransformer2DModel(
                patch_size=1,
                in_channels=16,
                num_layers=1,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=4,
                joint_attention_dim=64,
                pooled_projection_dim=32,
                guidance_embeds=True,
                axes_dims_rope=(4, 6, 6),
            ),
            "vae": vae(),
            "text_encoder": CLIPTextModel(clip.config),
            "text_encoder_2": _t5(tokens),
        }
        stir(*parts.values())
    pipe = FluxPipeline(
        **parts,
        tokenizer=words,
        tokenizer_2=tokens,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15),
    )
    pipe.save_pretrained(folder)
    return folder


ARMS = {
    "epg": (
        *("objective=epg", "estimator=elbo", "sampler=ode", "regularizer=girsanov", "snapshots=nft_fast"),
        "+policy.guidance.ref=1.5",
    ),
    "grpo": (
        *("objective=grpo", "estimator=trajectory", "sampler=sde", "regularizer=transition_kl"),
        *("snapshots=on_policy", "batch.updates=2", "policy.backbone.gradient_checkpointing=true"),
    ),
    "nft": ("objective=nft", "estimator=elbo", "sampler=dpm2", "policy.backbone.dtype=bfloat16"),
}
TINY = (
    *(f"policy.backbone.resolution={RESOLUTION}", "policy.backbone.max_tokens=32"),
    *("policy.backbone.dtype=float32", "policy.backbone.vae_dtype=float32", "policy.tunings.lora.rank=4"),
    *("sampler.num_steps=4", "evaluation.sampler.num_steps=3", "evaluation.samples_per_prompt=1"),
    *("batch.prompts=2", "batch.group_size=4", "batch.micro=4", "batch.rollout=4"),
    *("budget.iterations=3", "evaluation.every_iterations=2", "checkpoint.every_iterations=1"),
)


def prompt_files(folder: Path) -> tuple[str, ...]:
    """Overrides that name four training prompts and two others to test on, written to ``folder``."""
    (folder / "train.txt").write_text("\n".join(CAPTIONS[:4]) + "\n")
    (folder / "test.txt").write_text("\n".join(CAPTIONS[4:]))
    return (f"prompts.train_file={folder}/train.txt", f"prompts.test_file={folder}/test.txt")


def trains_and_resumes(root: Path, policy: str, arm: str, checkpoint: Path) -> RunDir:
    """Three iterations in one go, and stopped after two: the same bits; then no text encoder is loaded."""
    overrides = (policy, *TINY, f"policy.backbone.checkpoint={checkpoint}", *prompt_files(root), *ARMS[arm])
    whole, broken = (prepare(root / name, *overrides) for name in ("whole", "broken"))
    finish(whole)
    shutil.copytree(whole.root.parent / EMBEDDINGS, broken.root.parent / EMBEDDINGS)

    def stopped_run() -> None:
        update, count = DefaultLearner.update, [0]
        Texts.loaded = None  # type: ignore[method-assign, assignment]  # calling it would fail

        def counting(self: DefaultLearner, *args: object) -> dict[str, float]:
            count[0] += 1
            if count[0] == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return update(self, *args)  # type: ignore[arg-type]

        DefaultLearner.update = counting  # type: ignore[method-assign, assignment]
        run(broken)

    assert wait(in_child(stopped_run)) == 0
    assert broken.read_state()["state"] == "stopped" and len(read_rows(broken.metrics)) == 2
    finish(broken)
    assert same(outcome(broken), outcome(whole))
    return whole
