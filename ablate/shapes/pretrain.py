"""Trains the base of the `shapes` bed from nothing: `python -m ablate.shapes.pretrain`, about 12 CPU minutes.

The same command on the same kind of processor, with the same versions, gives the same bits.

Two phases. First captions are always true of their images, and the network learns to draw every task. Then a
share of the images gets a caption it was not drawn for: what the network can draw stays, but it listens
badly, as a base model does before guidance or RL. Both phases see every caption: the split into training and
test prompts is RL's.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as serialize
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ablate.shapes.base import BASE
from ablate.shapes.network import ShapesNet
from ablate.shapes.render import render
from ablate.shapes.scenes import TASKS, Caption, captions, is_held_out, sample_scene
from ablate.shapes.verifier import verify

SHARES = {
    "single_object": 0.06,
    "two_object": 0.16,
    "counting": 0.16,
    "colors": 0.08,
    "position": 0.25,
    "color_attr": 0.29,
}  # of the training images; more where there is more to learn


@dataclass(frozen=True)
class Recipe:
    """What the weights are a function of.

    Attributes:
        steps, blunt_steps: AdamW steps of the two phases.
        mismatch: share of images of the second phase that get another image's caption.
        unconditional: share of images that get the null caption, in both phases.
        lr, blunt_lr: peak learning rates; both fall linearly to zero.
        time_shift: t = sigmoid(n + time_shift) with n standard normal; above zero t leans to noise.
    """

    seed: int = 0
    steps: int = 8000
    blunt_steps: int = 600
    batch: int = 64
    mismatch: float = 0.35
    unconditional: float = 0.1
    lr: float = 2e-3
    blunt_lr: float = 1e-3
    ema: float = 0.995
    time_shift: float = 0.5


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own peak learning rate and caption mismatch."""

    steps: int
    lr: float
    mismatch: float


def draw_batch(recipe: Recipe, mismatch: float, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
    """Images x0 [B,3,16,16] in [-1,1] and the captions they are trained with."""
    every = {task: captions(task) for task in TASKS}
    tasks = rng.choice(len(TASKS), size=2 * recipe.batch, p=list(SHARES.values()))
    drawn = [every[TASKS[i]][rng.integers(len(every[TASKS[i]]))] for i in tasks]
    images = np.stack([render(sample_scene(caption, rng)) for caption in drawn[: recipe.batch]])
    wrong, silent = rng.random(recipe.batch) < mismatch, rng.random(recipe.batch) < recipe.unconditional
    told = [drawn[recipe.batch + i if wrong[i] else i].text for i in range(recipe.batch)]
    texts = ["" if silent[i] else told[i] for i in range(recipe.batch)]
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1, texts


def train(recipe: Recipe) -> ShapesNet:
    """The network with averaged weights (EMA) after both phases."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    net, average = ShapesNet(), ShapesNet()
    average.load_state_dict(net.state_dict())
    phases = (
        Phase(recipe.steps, recipe.lr, 0.0),
        Phase(recipe.blunt_steps, recipe.blunt_lr, recipe.mismatch),
    )
    for number, phase in enumerate(phases, start=1):
        optimizer = torch.optim.AdamW(net.parameters(), lr=phase.lr, betas=(0.9, 0.99), weight_decay=0.01)
        progress = tqdm(range(phase.steps), desc=f"phase {number}", disable=None)
        for step in progress:
            optimizer.param_groups[0]["lr"] = phase.lr * min(1.0, (step + 1) / 100) * (1 - step / phase.steps)
            x0, texts = draw_batch(recipe, phase.mismatch, rng)
            loss = _denoising_loss(net, x0, texts, recipe.time_shift)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - recipe.ema)
            if step % 50 == 0:
                progress.set_postfix(loss=f"{loss.item():.4f}")
    return average.eval().requires_grad_(False)


def _denoising_loss(net: ShapesNet, x0: Tensor, texts: list[str], time_shift: float) -> Tensor:
    """Mean square error of x0_hat at ``x_t = (1 - t) x0 + t eps``."""
    t = torch.sigmoid(torch.randn(len(x0)) + time_shift)
    mix = t.view(-1, 1, 1, 1)
    x_t = (1 - mix) * x0 + mix * torch.randn_like(x0)
    conditioning = net.encode(texts)
    x0_hat = net.transformer(
        hidden_states=x_t,
        encoder_hidden_states=conditioning["prompt_embeds"],
        pooled_projections=conditioning["pooled"],
        timestep=1000 * t,
        return_dict=False,
    )[0]
    return functional.mse_loss(x0_hat, x0)


@torch.no_grad()
def sample(net: ShapesNet, texts: list[str], guidance: float, seed: int, num_steps: int = 10) -> Tensor:
    """Images [B,3,16,16] in [0,1] by Euler steps on a uniform grid; guidance 1 is none."""
    velocity = net.velocity()
    conditional, null = net.encode(texts), net.encode([""] * len(texts))
    x = torch.randn(len(texts), 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    times = torch.linspace(1, 0, num_steps + 1)
    for now, after in zip(times[:-1], times[1:], strict=True):
        t = now.expand(len(texts))
        v = velocity(x, t, **conditional)
        if guidance != 1:
            v_null = velocity(x, t, **null)
            v = v_null + guidance * (v - v_null)
        x = x + (after - now) * v
    return ((x + 1) / 2).clamp(0, 1)


def evaluate(
    net: ShapesNet, guidance: float, per_task: int = 256, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Mean strict and partial scores per task, on held-out captions where there are any, and of all tasks."""
    scores: dict[str, dict[str, float]] = {}
    for number, task in enumerate(TASKS):
        asked = _cycle([c for c in captions(task) if is_held_out(c)] or list(captions(task)), per_task)
        images = sample(net, [c.text for c in asked], guidance, seed + number).permute(0, 2, 3, 1).numpy()
        verdicts = [verify(image, caption.metadata) for image, caption in zip(images, asked, strict=True)]
        scores[task] = {
            "strict": float(np.mean([verdict.strict for verdict in verdicts])),
            "partial": float(np.mean([verdict.partial for verdict in verdicts])),
        }
    scores["mean"] = {
        name: float(np.mean([s[name] for s in scores.values()])) for name in ("strict", "partial")
    }
    return scores


def _cycle(items: list[Caption], length: int) -> list[Caption]:
    return [items[i % len(items)] for i in range(length)]


def save(net: ShapesNet, recipe: Recipe, command: str, out: Path, *, per_task: int = 256) -> None:
    """Write the weights to `out`, and their provenance beside them as .json."""
    weights = serialize({name: tensor.contiguous() for name, tensor in net.state_dict().items()})
    provenance = {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "recipe": asdict(recipe),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "diffusers")},
        },
        "parameters": sum(p.numel() for p in net.parameters()),
        "per_task": per_task,
        "sampler": "10 Euler steps, uniform grid",
        "metrics": {f"guidance {g:g}": evaluate(net, g, per_task) for g in (1.0, 3.0)},
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(weights)
    out.with_suffix(".json").write_text(json.dumps(provenance, indent=2) + "\n")


def main() -> None:
    """Command line: every field of `Recipe`, and where to write."""
    parser = argparse.ArgumentParser(description="Train the base of the shapes bed from nothing.")
    parser.add_argument("--out", type=Path, default=BASE)
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args())
    out = options.pop("out")
    torch.set_num_threads(1)  # sums are split by thread: another number gives other bits
    torch.use_deterministic_algorithms(True)
    recipe = Recipe(**options)
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in options.items()]
    save(train(recipe), recipe, " ".join(["python -m ablate.shapes.pretrain", *flags]), out)


if __name__ == "__main__":
    main()
