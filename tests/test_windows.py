"""SDE windows: chosen by the iteration alone among the steps that can be scored, moved as their papers do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pieces import Gaussian, draws, run

from ablate.build import make
from ablate.contract.errors import IncompatibleRun, UserError
from ablate.key import Key
from ablate.protocols import Policy, Sampler
from ablate.rollout import Request, collect
from ablate.samplers.grids import Double
from ablate.samplers.sde import FlowSDE
from ablate.samplers.sliding import Dwell, ExponentialDecay, LinearDecay, Sliding, Steady
from ablate.samplers.windows import Fixed, RandomStart, RandomSubset, Window
from ablate.types import Path

MOVING: tuple[Window, ...] = (
    RandomStart(3, 0, 5),
    RandomSubset(3, 0, 5),
    Sliding(3, 1, None, True, Steady(1)),
)


def at(iteration: int, seed: int = 0) -> Key:
    """The key a window sees: that of the rollout's first step."""
    return Key((seed, iteration, "rollout", "step", 0))


def seen(window: Window, iterations: int, steps: int = 10) -> list[tuple[int, ...]]:
    return [tuple(window(steps, at(n))) for n in range(iterations)]


def path(policy: Policy, sampler: Sampler, part: Callable[..., Any], iteration: int, chunk: int) -> Path:
    """Of 6 samples, as a run's iteration draws them."""
    group = torch.arange(2).repeat_interleave(3)
    request = Request("old", group, torch.arange(6), "transitions", chunk)
    key = Key((0, iteration, "rollout"))
    found = collect(policy, sampler, part("start", "iid"), ["mode 1"] * 6, request=request, key=key).path
    assert found is not None and found.log_prob is not None
    return found


@pytest.mark.parametrize("window", MOVING)
def test_all_chunks_and_processes_share_the_window(
    part: Callable[..., Any], policy: Policy, window: Window
) -> None:
    sampler = FlowSDE(10, Double(3.0), 0.7, window)
    chosen = []
    for iteration in range(6):
        whole = path(policy, sampler, part, iteration, 6)
        parted = path(policy, sampler, part, iteration, 4)
        assert torch.equal(whole.k, parted.k) and (whole.k == whole.k[0]).all()
        chosen.append(tuple(whole.k[0].tolist()))
    assert chosen == seen(window, 6)
    assert len(set(chosen)) > 1  # and it moves with the iteration


def test_steps_outside_are_euler_and_those_inside_are_scored(
    part: Callable[..., Any], each_kernel: str
) -> None:
    window = {"_target_": "ablate.samplers.windows.RandomStart", "width": 2, "low": 1, "high": 4}
    sampler = part("sampler", each_kernel, num_steps=6, window=window)
    noise = draws(4, 0, "rollout")
    steps = run(sampler, Gaussian(0.4, 0.5), noise.of("start").normal(3), noise)
    chosen = set(sampler.window(6, noise.of("step", 0).key))
    assert {k for k, step in enumerate(steps) if step.log_prob is not None} == chosen
    twin = run(sampler, Gaussian(0.4, 0.5), noise.of("start").normal(3), noise.rows(torch.arange(4) + 9))
    first = min(chosen)
    assert torch.equal(twin[first - 1].x, steps[first - 1].x) and not torch.equal(
        twin[first].x, steps[first].x
    )


def test_random_start_is_uniform_from_low_to_high_less_width() -> None:
    """Flow-GRPO-Fast: width 3 below 5 starts at 0, 1 or 2. Tolerance: 4.5 standard errors of n = 1,800."""
    count = Counter(steps[0] for steps in seen(RandomStart(3, 0, 5), 1800))
    assert all(steps == tuple(range(steps[0], steps[0] + 3)) for steps in seen(RandomStart(3, 0, 5), 20))
    assert sorted(count) == [0, 1, 2]
    assert all(abs(n - 600) < 4.5 * math.sqrt(1800 * 2 / 9) for n in count.values())
    assert {s[0] for s in seen(RandomStart(2, 3, None), 200)} == {3, 4, 5, 6, 7}  # 8 is the last scored step


def test_random_subset_takes_every_step_equally_often() -> None:
    """UniRL: 3 of the first 5. Tolerance: 4.5 standard errors of n = 1,000."""
    chosen = seen(RandomSubset(3, 0, 5), 1000)
    assert all(list(steps) == sorted(set(steps)) and len(steps) == 3 for steps in chosen)
    count = Counter(k for steps in chosen for k in steps)
    assert sorted(count) == [0, 1, 2, 3, 4]
    assert all(abs(n - 600) < 4.5 * math.sqrt(1000 * 0.6 * 0.4) for n in count.values())


def test_another_seed_has_other_windows() -> None:
    window = RandomStart(3, 0, None)
    assert [window(10, at(n, seed=1)) for n in range(20)] != [window(10, at(n)) for n in range(20)]


def by_hand(width: int, shift: int, high: int, wrap: bool, dwell: Dwell, iterations: int) -> list[range]:
    """MixGRPO's state machine (start, iterations since the last shift), the start held to high - width."""
    start, since, out = 0, 0, []
    for _ in range(iterations):
        out.append(range(start, start + width))
        since += 1
        if since == dwell(start, high):
            last = start == high - width
            start = (0 if wrap else start) if last else min(start + shift, high - width)
            since = 0 if wrap or not last else since
    return out


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("shift", [1, 2, 4, 50])
@pytest.mark.parametrize("dwell", [Steady(5), LinearDecay(8), ExponentialDecay(6, 0.1, 3), Steady(1)])
def test_sliding_window_is_the_published_state_machine(dwell: Dwell, shift: int, wrap: bool) -> None:
    window = Sliding(4, shift, 12, wrap, dwell)
    found = [window(14, at(n)) for n in range(150)]
    assert found == by_hand(4, shift, 12, wrap, dwell, 150)
    assert all(len(steps) == 4 for steps in found)  # it never shrinks


def test_dwells_are_the_published_ones() -> None:
    """MixGRPO: 25 iterations; "decay" towards 25 // 4 at the end; "exp_decay" from step 13 on."""
    assert {Steady(25)(start, 20) for start in range(20)} == {25}
    assert [LinearDecay(25)(start, 19) for start in (0, 10, 19)] == [25, 15, 6]
    assert LinearDecay(2)(19, 19) == 1
    decay = ExponentialDecay(25, 0.1, 13)
    assert [decay(start, 23) for start in (0, 13, 14, 20)] == [25, 25, 23, 13]


@pytest.mark.parametrize("key", [Key((1234, "evaluation", "step", 0)), Key()])
def test_a_sliding_window_needs_a_run(key: Key) -> None:
    assert key.iteration is None and at(7).iteration == 7
    with pytest.raises(IncompatibleRun, match=r"sampler@evaluation.sampler=ode"):
        Sliding(3, 1, None, True, Steady(1))(10, key)


@pytest.mark.parametrize("steps", [[9], [10], [-1], [0, 12], []])
def test_steps_that_cannot_be_scored_are_refused(steps: Sequence[int]) -> None:
    with pytest.raises(ValueError, match=r"sampler.window.steps = .* 0\.\.8.* never scored"):
        FlowSDE(10, Double(3.0), 0.7, Fixed(steps))


@pytest.mark.parametrize(
    "window",
    [
        RandomStart(3, 0, 10),
        RandomStart(10, 0, None),
        RandomStart(0, 0, None),
        RandomStart(2, -1, 5),
        RandomStart(3, 4, 6),
        RandomSubset(4, 0, 3),
        RandomSubset(1, 9, None),
        Sliding(10, 1, None, True, Steady(1)),
        Sliding(4, 1, 10, True, Steady(1)),
    ],
)
def test_windows_that_do_not_fit_are_refused(window: Window) -> None:
    with pytest.raises(ValueError, match=r"sampler.window: .* 0\.\.8.* never scored.*change"):
        FlowSDE(10, Double(3.0), 0.7, window)


def test_settings_that_do_not_move_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shift = 0 .*Fixed"):
        FlowSDE(10, Double(3.0), 0.7, Sliding(4, 0, None, True, Steady(1)))
    for dwell in (Steady, LinearDecay, lambda n: ExponentialDecay(n, 0.1, 13)):
        with pytest.raises(ValueError, match=r"iterations = 0 must be 1 or more"):
            dwell(0)
    with pytest.raises(ValueError, match=r"rate = 0.* must be positive"):
        ExponentialDecay(25, 0.0, 13)


def test_a_window_is_given_on_the_command_line(compose: Callable[..., Any]) -> None:
    """The nodes of all windows, as a user writes them."""
    dwell = "dwell:{_target_:ablate.samplers.sliding.LinearDecay,iterations:25}"
    nodes = [
        ("{_target_:ablate.samplers.windows.Fixed,steps:[0,1]}", Fixed([0, 1])),
        ("{_target_:ablate.samplers.windows.RandomSubset,width:3,low:0,high:5}", RandomSubset(3, 0, 5)),
        (
            "{_target_:ablate.samplers.sliding.Sliding,width:4,shift:1,high:null,wrap:true," + dwell + "}",
            Sliding(4, 1, None, True, LinearDecay(25)),
        ),
    ]
    for text, expected in nodes:
        assert make(compose("sampler=cps", f"sampler.window={text}")["sampler"]).window == expected
    with pytest.raises(UserError, match="never scored"):
        make(
            compose("sampler=dance", "sampler.window={_target_:ablate.samplers.windows.Fixed,steps:[15]}")[
                "sampler"
            ]
        )
