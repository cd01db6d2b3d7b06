"""``python -m ablate.bench``: what an iteration costs, and how much of it is the network's.

Ratios within one run: whole iterations of an arm, then nothing but the forwards and backwards these made,
replayed on noise with the same network, roles, batch sizes and thread. The rest is the lab's own overhead.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ablate import train
from ablate.clock import Clock
from ablate.contract.rundir import RunDir
from ablate.distributed import Distributed
from ablate.loop import Lab, Progress, iterate
from ablate.protocols import Policy
from ablate.types import Cond, Role
from runners.compose import composing

ARMS = ("demo/epg_elbo_ode", "demo/epg_elbo_sde", "demo/grpo_trajectory_sde")


@dataclass(frozen=True)
class Call:
    """One velocity call of an iteration."""

    role: Role
    size: int
    with_gradient: bool


def calls_of(lab: Lab) -> list[Call]:
    """The velocity calls of one iteration, in order."""
    policy, calls = lab.policy, list[Call]()
    original = policy.velocity

    def recording(role: Role) -> Callable[[Tensor, Tensor, Cond], Tensor]:
        field = original(role)

        def call(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
            v = field(x_t, t, cond)
            calls.append(Call(role, len(x_t), v.requires_grad))
            return v

        return call

    policy.velocity = recording  # type: ignore[method-assign]
    iterate(
        lab, Progress(iteration=1), Clock(lab.distributed)
    )  # the first one has the preflight's calls, too
    policy.velocity = original  # type: ignore[method-assign]
    return calls


def replay(policy: Policy, calls: Sequence[Call], x: Tensor, cond: Cond) -> None:
    """Nothing but these calls, each with its backward if it had one."""
    for call in calls:
        part = {name: value[: call.size] for name, value in cond.items()}
        t = torch.full((call.size,), 0.5, device=x.device)
        with torch.set_grad_enabled(call.with_gradient):
            v = policy.velocity(call.role)(x[: call.size], t, part)
        if call.with_gradient:
            v.sum().backward()  # type: ignore[no-untyped-call]


def seconds(work: Callable[[], object], distributed: Distributed) -> float:
    """Wall time of ``work``, device-synchronised."""
    distributed.synchronize()
    began = time.perf_counter()
    work()
    distributed.synchronize()
    return time.perf_counter() - began


def measure(arm: str, repeats: int, root: Path, distributed: Distributed) -> str:
    """One line: samples per second, the network's share, forwards per sample; medians."""
    with composing() as composer:
        config = composer.cell(["policy=shapes", f"experiment={arm}", "logging.wandb=disabled"]).config
    lab = train.assemble(RunDir(root / arm), config, distributed)
    samples = lab.batch.prompts * lab.batch.group_size
    calls = calls_of(lab)  # warms up, too
    x = torch.randn(samples, *lab.policy.shape, device=distributed.device)
    cond = lab.policy.encode([lab.parts.prompts.train[0].text] * samples)
    clock, whole, network = Clock(distributed), list[float](), list[float]()
    for number in range(1, repeats + 1):
        now = Progress(iteration=number)
        whole.append(seconds(lambda now=now: iterate(lab, now, clock), distributed))  # type: ignore[misc]
        network.append(seconds(lambda: replay(lab.policy, calls, x, cond), distributed))
    share = sorted(n / w for n, w in zip(network, whole, strict=True))[repeats // 2]
    rate, forwards = samples / sorted(whole)[repeats // 2], sum(call.size for call in calls) // samples
    return f"{arm:26s} {rate:7.1f} samples/s, {share:6.1%} of it network, {forwards} forwards per sample"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="iterations measured per arm")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    distributed = Distributed(gpus=torch.cuda.device_count())
    print(f"device {distributed.device_name}, 1 thread, medians of {repeats} iterations")
    with tempfile.TemporaryDirectory() as root:
        for arm in ARMS:
            print(measure(arm, repeats, Path(root), distributed), flush=True)


if __name__ == "__main__":
    main()
