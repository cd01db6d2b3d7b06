"""Collecting samples: noise belongs to the sample and the step, and only what was asked for is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pieces import run, sample

from ablate.key import Key
from ablate.protocols import HasTransition, Policy
from ablate.rollout import Request, collect
from ablate.types import Rollout

Make = Callable[..., Any]


@pytest.mark.parametrize("chunk", [1, 5, 8])
def test_chunks_change_no_sample(part: Make, policy: Policy, each_sampler: str, chunk: int) -> None:
    """Up to the rounding of matrix products, whose order depends on the batch."""
    sampler, start = part("sampler", each_sampler), part("start", "iid")
    whole = sample(policy, sampler, start, keep="states", groups=2, size=8)
    parted = sample(policy, sampler, start, keep="states", groups=2, size=8, chunk=chunk)
    torch.testing.assert_close(parted.x0, whole.x0, rtol=0, atol=2e-5)
    assert whole.path is not None and parted.path is not None
    torch.testing.assert_close(parted.path.x, whole.path.x, rtol=0, atol=2e-5)
    assert torch.equal(parted.path.k, whole.path.k)


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_processes_change_no_sample(part: Make, policy: Policy, each_sampler: str, spread: float) -> None:
    """Two processes with half the groups each draw what one draws: labels and numbers name the noise."""
    sampler, start = part("sampler", each_sampler), part("start", "iid", spread=spread)

    def draw(groups: range) -> Rollout:
        group = torch.tensor(groups).repeat_interleave(4)
        numbers = torch.arange(4 * groups.start, 4 * groups.stop)
        request = Request("old", group, numbers, "x0", 16)
        prompts = [f"mode {g}" for g in group.tolist()]
        return collect(policy, sampler, start, prompts, request=request, key=Key((0, 0)))

    whole, first, second = draw(range(4)), draw(range(2)), draw(range(2, 4))
    torch.testing.assert_close(torch.cat([first.x0, second.x0]), whole.x0, rtol=0, atol=2e-5)
    own_noise = spread > 0 or isinstance(sampler, HasTransition)
    # one start for a group and no noise on the way: one sample; SA-Solver adds noise, but has no density
    assert len(whole.x0.unique(dim=0)) in ({16} if own_noise else {4, 16})


def test_every_step_draws_fresh_noise(part: Make, policy: Policy, each_kernel: str) -> None:
    """Noise read off the path, ``(x' - mean)/std``, is standard, and different for each step and sample."""
    sampler = part("sampler", each_kernel)
    path = sample(policy, sampler, part("start", "iid"), keep="states", groups=8, size=32).path
    assert path is not None and path.v is not None
    eps = []
    for k in range(sampler.num_steps - 1):
        step = sampler.transition(path.x[:, k], path.k[:, k])
        eps.append(((path.x_next[:, k] - step.mean(path.v[:, k])) / step.std).flatten())
    table = torch.stack(eps)
    count = table.shape[1]
    assert abs(float(table.std()) - 1) < 4 / (2 * table.numel()) ** 0.5
    off = torch.corrcoef(table) - torch.eye(len(table))
    assert float(off.abs().max()) < 5 / count**0.5


def test_a_rollout_is_the_samplers_steps(part: Make, policy: Policy, each_sampler: str) -> None:
    """In order, each with what the one before handed on, under the conditioning of the sample's prompt."""
    sampler, start = part("sampler", each_sampler), part("start", "iid")
    drawn = sample(policy, sampler, start, keep="x0", groups=3, size=2)
    noise = Key((0, 0, "rollout")).rows(torch.arange(6))
    assert drawn.cond["label"].tolist() == [0, 0, 1, 1, 2, 2]
    field = policy.velocity("old")
    x = start(drawn.group, policy.shape, noise)
    with torch.no_grad():
        steps = run(sampler, lambda x, t, _: field(x, t, drawn.cond), x, noise)
    torch.testing.assert_close(drawn.x0, steps[-1].x, rtol=0, atol=0)


def test_keep_says_what_is_stored(part: Make, policy: Policy, each_sampler: str) -> None:
    sampler, start = part("sampler", each_sampler), part("start", "iid")
    bare = sample(policy, sampler, start, keep="x0", groups=1, size=3)
    assert bare.path is None and bare.drawn_by == "old" and bare.x0.dtype == torch.float32
    states = sample(policy, sampler, start, keep="states", groups=1, size=3).path
    assert states is not None and states.v is not None
    assert states.k.tolist() == [list(range(sampler.num_steps))] * 3
    torch.testing.assert_close(states.x_next[:, -1], bare.x0, rtol=0, atol=0)
    torch.testing.assert_close(states.x[:, 1:], states.x_next[:, :-1], rtol=0, atol=0)
    kept = sample(policy, sampler, start, keep="transitions", groups=1, size=3).path
    assert (kept is not None) == isinstance(sampler, HasTransition)
    if kept is not None:
        assert kept.log_prob is not None and kept.log_prob.shape == kept.k.shape and kept.v is None


def test_the_role_that_draws_draws(part: Make, policy: Policy) -> None:
    """Forwards are counted: one per sample and step."""
    sampler = part("sampler", "ode")
    before = policy.forwards
    sample(policy, sampler, part("start", "iid"), keep="x0", groups=2, size=3)
    assert policy.forwards - before == 6 * sampler.num_steps
