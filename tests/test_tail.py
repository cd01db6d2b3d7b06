"""MixGRPO-Flash's compressed tail: what it asks, what it draws, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pieces import Gaussian, draws, network_calls, quiet, run
from torch import Tensor

from ablate.samplers.dpm2 import DPM2
from ablate.samplers.grids import Double, Single
from ablate.samplers.sde import FlowSDE
from ablate.samplers.tail import Tail
from ablate.samplers.windows import Fixed

FLOW = Gaussian(0.4, 0.5)
X_1 = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 9)


def flash(steps: int, window: list[int], ratio: float) -> FlowSDE:
    return FlowSDE(steps, Single(3.0), 0.7, Fixed(window), Tail(ratio))


@pytest.mark.parametrize(
    ("steps", "last", "ratio", "calls"),
    [
        (25, 3, 0.4, [4, 7, 10, 13, 16, 19, 22]),  # int(22 * .4) = 8 points, 7 calls
        (10, 3, 0.4, [4]),
        (10, 8, 0.4, [9]),
        (10, 3, 0.2, [4]),
        (16, 3, 1.0, list(range(4, 16))),
    ],
)
def test_forwards_drop_as_declared(steps: int, last: int, ratio: float, calls: list[int]) -> None:
    sampler = flash(steps, list(range(last + 1)), ratio)
    assert Tail(ratio).calls(last, steps) == calls
    assert network_calls(sampler) == last + 1 + len(calls)
    assert network_calls(replace(sampler, tail=None)) == steps


def test_the_window_is_as_without_a_tail() -> None:
    """The same draws and scores, bit for bit, also of Euler steps before the window."""
    sampler, x = flash(10, [1, 2, 3], 0.4), draws(3).normal(4)
    ours, plain = (run(one, FLOW, x, draws(3)) for one in (sampler, replace(sampler, tail=None)))
    for k in range(4):
        assert torch.equal(ours[k].x, plain[k].x)
        assert (ours[k].log_prob is None) == (plain[k].log_prob is None) == (k == 0)
    assert all(step.log_prob is None for step in ours[4:])
    assert not torch.equal(ours[-1].x, plain[-1].x)


def test_a_tail_that_asks_everywhere_is_dpm_solver() -> None:
    """Ratio 1 after one quiet step, which is Euler's but for Flow-SDE's mean: the solver from there on."""
    sampler = flash(8, [0], 1.0)
    ours, noise = run(sampler, FLOW, X_1, quiet(1)), quiet(1)
    solver = DPM2(8, Single(3.0))
    carry: Any = solver.step(FLOW, X_1, 0, {}, None, noise).carry
    x = ours[0].x
    for k in range(1, 8):
        step = solver.step(FLOW, x, k, {}, carry, noise)
        x, carry = step.x, step.carry
        torch.testing.assert_close(ours[k].x, x, rtol=0, atol=1e-12)


def test_steps_in_between_follow_the_solution() -> None:
    """Of data at one point x0_hat never changes, so every grid time is reached exactly."""
    datum = Gaussian(0.4, 0.0)
    sampler = flash(25, [0, 1, 2, 3], 0.4)
    steps = run(sampler, datum, X_1, quiet(1))
    times = sampler.times()
    noise = (steps[3].x - (1 - times[4]) * 0.4) / times[4]
    for k in range(4, 25):
        torch.testing.assert_close(steps[k].x, (1 - times[k + 1]) * 0.4 + times[k + 1] * noise)


def test_the_tail_is_second_order() -> None:
    """Up to its last stretch, to a fixed time: half the stretch, a quarter of the error."""

    def error(steps: int) -> float:
        sampler = flash(steps, [0], 0.5)
        path = run(sampler, FLOW, X_1, quiet(1))
        times, end = sampler.times(), int(0.75 * steps)
        start, stop = (t.expand(1) for t in (times[1], times[end]))

        def flowed(x: Tensor, t: Tensor, to: Tensor) -> Tensor:
            """Along the exact flow: the standardised state never changes."""
            spread = [((1 - s) ** 2 * 0.25 + s**2).sqrt() for s in (t, to)]
            return (1 - to) * 0.4 + spread[1] / spread[0] * (x - (1 - t) * 0.4)

        return float((path[end - 1].x - flowed(path[0].x, start, stop)).abs().max())

    assert 3 < error(80) / error(160) < 5


def test_a_tail_reaches_the_data() -> None:
    """Exact velocity in, N(.4, .5^2) out, within what the few first SDE steps and calls leave."""
    x = draws(4000).normal(1)
    x0 = run(flash(100, [0, 1, 2, 3], 0.4), FLOW, x, draws(4000))[-1].x
    assert float(x0.mean()) == pytest.approx(0.4, abs=4 * 0.5 / 4000**0.5)
    assert float(x0.std()) == pytest.approx(0.5, abs=4 * 0.5 / 8000**0.5 + 0.005)


def test_what_cannot_be_a_tail_is_refused() -> None:
    for ratio in (0.0, 1.2, float("nan")):
        with pytest.raises(ValueError, match=r"sampler.tail.ratio = .* must lie in \(0, 1\]"):
            Tail(ratio)
    with pytest.raises(ValueError, match="sampler.tail is set, but sampler.window = null never ends"):
        FlowSDE(10, Double(3.0), 0.7, tail=Tail(0.4))


def test_a_tail_is_given_on_the_command_line(parts: Any) -> None:
    found = parts(
        "sampler=sde",
        "sampler.window={_target_: ablate.samplers.windows.Fixed, steps: [0, 1]}",
        "sampler.tail={_target_: ablate.samplers.tail.Tail, ratio: 0.4}",
    )
    assert found.sampler == FlowSDE(10, Double(3.0), 0.7, Fixed([0, 1]), Tail(0.4))
