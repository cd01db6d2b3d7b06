"""Pretrain the mixture2d base from nothing: ``python -m ablate.mixture2d.pretrain``, seconds on one core."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ablate.mixture2d import density
from ablate.mixture2d.network import BASE, MLP
from ablate.weights_file import sha256

STEPS, BATCH, LR, SEED, DROPOUT = 6000, 512, 2e-3, 0, 0.1


def train(steps: int = STEPS, seed: int = SEED) -> MLP:
    """Flow matching on the exact velocity of fresh samples, cosine learning rate, class dropout."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = MLP()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        label = torch.randint(density.MODES, (BATCH,), generator=generator)
        x0 = density.sample(label, generator)
        dropped = torch.rand(BATCH, generator=generator) < DROPOUT
        label = torch.where(dropped, density.MODES, label)
        t, eps = torch.rand(BATCH, generator=generator), torch.randn(BATCH, 2, generator=generator)
        x_t = (1 - t)[:, None] * x0 + t[:, None] * eps
        optimizer.zero_grad()
        error(network, x_t, t, label).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network


def error(network: MLP, x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """Mean squared distance to the exact marginal velocity."""
    v: Tensor = network(x_t, t, label)
    return (v - density.velocity(x_t, t, label)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BASE)
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    began = time.process_time()
    network = train()
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, out)
    out.chmod(0o644)  # safetensors writes for its owner alone
    facts = {
        "command": "python -m ablate.mixture2d.pretrain",
        "seed": SEED,
        "steps": STEPS,
        "batch": BATCH,
        "cpu_s": round(time.process_time() - began, 1),
        "torch": torch.__version__,
        "sha256": sha256(out),
    }
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
