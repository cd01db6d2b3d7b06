"""Samplers: published vectors, the marginals they must keep, and the densities they must own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pieces import Gaussian, draws, moments, run, sample
from torch import Tensor

from ablate.key import Draws
from ablate.protocols import HasTransition, Policy, Sampler
from ablate.samplers.dpm2 import DPM2
from ablate.samplers.gaussian import Coefficients
from ablate.samplers.grids import Double, Sana, Single
from ablate.samplers.ode import EulerODE
from ablate.samplers.sde import FlowSDE
from ablate.types import Step, Transition

F64 = torch.float64
# Scalar x = .5, v = .3, eps = .2 on the 10-step double grid, a = .7 (specification, section 14.1).
FLOW_SDE = {  # step: (mean, std, x', log p; c1, c2, kappa, weight, u*)
    0: (0.365539, 0.700000, 0.505539, -0.582264, 0.755000, -0.039871, 0.715129, 0.00162211, -3.211351),
    4: (0.420412, 0.391794, 0.498771, -0.001920, 0.902892, -0.103447, 0.610170, 0.0348568, -0.457480),
    8: (0.353820, 0.225360, 0.398892, 0.551115, 0.908672, -0.335055, -0.082400, 1.10521, 0.165478),
}
EULER = [0.984052, 0.965414, 0.943344, 0.916796, 0.884251, 0.843417, 0.790657, 0.719837, 0.619728, 0.616497]
SECOND = [0.984052, 0.965414, 0.943379, 0.916894, 0.884456, 0.843807, 0.791398, 0.721387, 0.627423, 0.624185]


def affine(x: Tensor, t: Tensor, cond: object) -> Tensor:
    return 0.3 + 0.1 * x


def scalar(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=F64)


def at(k: int, like: Tensor) -> Tensor:
    return torch.full((len(like),), k)


@pytest.mark.parametrize("k", FLOW_SDE)
def test_flow_sde_vectors(k: int) -> None:
    sampler = FlowSDE(10, Double(3.0), 0.7)
    x, v, eps = scalar(0.5), scalar(0.3), scalar(0.2)
    step = sampler.transition(x, at(k, x))
    x_next = step.sample(v, eps)
    c1, c2, std = (c.item() for c in sampler.coefficients(torch.tensor([k])))
    found = [step.mean(v), step.std, x_next, step.log_prob(x_next, v)]
    kappa = c1 - (1 - float(sampler.times()[k + 1]))
    numbers = [*(f.item() for f in found), c1, c2, kappa, c2**2 / (2 * std**2), step.target(x_next).item()]
    assert numbers == pytest.approx(FLOW_SDE[k], rel=2e-5, abs=1e-6)


def test_flow_sde_step_noise() -> None:
    """The published column of s sqrt(-dt) over all ten steps."""
    published = [0.7000, 0.7430, 0.5362, 0.4459, 0.3918, 0.3528, 0.3191, 0.2820, 0.2254, 0.0063]
    std = FlowSDE(10, Double(3.0), 0.7).coefficients(torch.arange(10)).std
    assert std.tolist() == pytest.approx(published, abs=5.1e-5)


@pytest.mark.parametrize(("make", "states"), [(EulerODE, EULER), (DPM2, SECOND)])
def test_ode_vectors(make: Callable[..., Sampler], states: list[float]) -> None:
    steps = run(make(10, Double(3.0)), affine, scalar(1.0), draws(1))
    assert [step.x.item() for step in steps] == pytest.approx(states, abs=5.1e-7)
    assert all(step.log_prob is None for step in steps)


@pytest.mark.parametrize("grid", [Double(3.0), Single(3.0), Sana(3.0)])
def test_flow_sde_without_noise_is_euler(grid: Double) -> None:
    sampler, x, v = FlowSDE(10, grid, 1e-8), scalar(0.5), scalar(0.3)
    times = sampler.times()
    for k in range(10):
        step = sampler.transition(x, at(k, x))
        euler = x + (times[k + 1] - times[k]) * v
        torch.testing.assert_close(step.mean(v), euler, rtol=0, atol=1e-12)
        assert float(step.std) < 1e-7


def test_dpm2_is_second_order() -> None:
    """Half the step halves Euler's error and quarters DPM2's, which at 20 steps is under a quarter of it."""
    flow, x_1 = Gaussian(0.4, 0.5), torch.linspace(-2, 2, 9, dtype=F64).view(1, 9)

    def error(make: Callable[..., Sampler], steps: int) -> float:
        end = run(make(steps, Single(3.0)), flow, x_1, draws(1))[-1].x
        return float((end - flow.flow(x_1)).abs().max())

    assert 1.7 < error(EulerODE, 20) / error(EulerODE, 40) < 2.3
    assert error(DPM2, 20) / error(DPM2, 40) > 3
    assert error(DPM2, 20) < error(EulerODE, 20) / 4


def test_sampler_keeps_the_marginal(part: Callable[..., Any], each_sampler: str) -> None:
    """Exact Gaussian velocity in, N(m, s^2) out, with 400 steps and n = 80,000 draws.

    Tolerance: 4 standard errors, which are s/sqrt(n) for the mean, s/sqrt(2n) for the deviation and
    sqrt(96/n) for the fourth moment. The steps add a bias of first order to the deviation alone: propagating
    the moments in closed form gives 0.0037 for Euler, which no solver exceeds, and the deviation itself for
    samplers with a transition (``test_kernels`` says which of them keep the marginal in the limit).
    """
    flow, count = Gaussian(0.4, 0.5), 80_000
    sampler = part("sampler", each_sampler, num_steps=400)
    noise = draws(4, each_sampler)
    x0 = run(sampler, flow, noise.of("start").normal(count // 4), noise)[-1].x.double()
    kernel = isinstance(sampler, HasTransition)
    std, bias = (moments(sampler, flow)[1], 0.0) if kernel else (flow.std, 0.0037)
    assert float(x0.mean()) == pytest.approx(flow.mean, abs=4 * flow.std / math.sqrt(count))
    assert float(x0.std()) == pytest.approx(std, abs=4 * std / math.sqrt(2 * count) + bias)
    shape = ((x0 - x0.mean()) / x0.std()).pow(4).mean()
    assert float(shape) == pytest.approx(3, abs=4 * math.sqrt(96 / count))  # a Gaussian's fourth moment


def scored(steps: list[Step]) -> list[int]:
    return [k for k, step in enumerate(steps) if step.log_prob is not None]


def test_density_tag_is_true(part: Callable[..., Any], node: Callable[..., Any], each_sampler: str) -> None:
    tagged = "transition" in node("sampler", each_sampler).get("provides", ())
    assert isinstance(part("sampler", each_sampler), HasTransition) == tagged


values = st.floats(-3, 3)


@given(x=values, v=values, other=values, eps=values, level=st.floats(0.05, 2.0), k=st.integers(0, 8))
def test_a_score_is_a_velocity_regression(
    x: float, v: float, other: float, eps: float, level: float, k: int
) -> None:
    """``log p = -(c2^2 / 2 std^2) mean (v - u*)^2 + const`` and ``u* = v_b + (std / c2) eps``."""
    sampler = FlowSDE(10, Double(3.0), level)
    state = torch.tensor([[x, -x, 0.3]], dtype=F64)
    drawn_with = torch.tensor([[v, 0.1, -v]], dtype=F64)
    noise = torch.tensor([[eps, 1.0, -eps]], dtype=F64)
    step = sampler.transition(state, torch.tensor([k]))
    x_next = step.sample(drawn_with, noise)
    target = step.target(x_next)
    torch.testing.assert_close(target, drawn_with + step.std / step.c2 * noise, rtol=1e-9, atol=1e-9)
    scored_v = drawn_with + other
    weight = (step.c2 / step.std).square() / 2
    regression = -(weight * (scored_v - target).square()).mean(1)
    const = -float(step.std.log()) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(step.log_prob(x_next, scored_v), regression + const, rtol=1e-9, atol=1e-9)


def test_a_score_is_the_normal_density(part: Callable[..., Any], each_kernel: str) -> None:
    """Against torch's own normal distribution, at every step that is scored."""
    sampler = part("sampler", each_kernel)
    x, v, x_next = (draws(5, name).normal(2, 3).double() for name in "abc")
    for k in scored(run(sampler, Gaussian(0.4, 0.5), x, draws(5))):
        step: Transition = sampler.transition(x, at(k, x))
        if not step.normal:
            distance = (x_next - step.mean(v)).square().flatten(1).mean(1)
            assert torch.equal(step.log_prob(x_next, v), -distance)
            continue
        density = torch.distributions.Normal(step.mean(v), step.std.expand_as(v)).log_prob(x_next)
        torch.testing.assert_close(step.log_prob(x_next, v), density.flatten(1).mean(1))


def test_step_draws_from_its_transition(part: Callable[..., Any], each_kernel: str) -> None:
    """A scored step is its transition at the velocity it returns, and rows may be at different steps."""
    sampler = part("sampler", each_kernel)
    steps = run(sampler, Gaussian(0.4, 0.5), draws(6, "start").normal(5), draws(6))
    states = [draws(6, "start").normal(5), *(step.x for step in steps)]
    ks = scored(steps)
    assert ks and ks[-1] < sampler.num_steps - 1  # the last transition is never scored
    for k in ks:
        transition = sampler.transition(states[k], at(k, states[k]))
        noise = draws(6).of("step", k).normal(5)
        torch.testing.assert_close(steps[k].x, transition.sample(steps[k].v, noise), rtol=0, atol=0)
    mixed = torch.tensor([ks[i % len(ks)] for i in range(6)])
    rows = [sampler.transition(states[0][i : i + 1], mixed[i : i + 1]) for i in range(6)]
    together = sampler.transition(states[0], mixed)
    torch.testing.assert_close(together.c1x, torch.cat([row.c1x for row in rows]), rtol=0, atol=0)
    torch.testing.assert_close(together.std, torch.cat([row.std for row in rows]), rtol=0, atol=0)


def test_path_scores_as_drawn(part: Callable[..., Any], policy: Policy, each_kernel: str) -> None:
    """Before any update every ratio is 1: old drew, theta is its copy, and the sampler scores both."""
    sampler = part("sampler", each_kernel)
    estimator = part("estimator", "trajectory", sampler=sampler)
    rollout = sample(policy, sampler, part("start", "iid"), keep="transitions", groups=4, size=6)
    index = torch.arange(24)
    queries = estimator.queries(rollout, index, draws(24))
    assert queries
    for query in queries:
        with torch.no_grad():
            again = query.log_prob(policy.velocity("theta")(query.x_t, query.t, query.cond))
        assert float((again - query.known["old"]).abs().max()) < 1e-5  # nats per dimension; rounding of fp32


@pytest.mark.parametrize("window", [[0], [1, 2, 3], [0, 4, 8]])
def test_only_the_window_is_stochastic_and_scored(
    part: Callable[..., Any], policy: Policy, each_kernel: str, window: list[int]
) -> None:
    fixed = {"_target_": "ablate.samplers.windows.Fixed", "steps": window}
    sampler = part("sampler", each_kernel, num_steps=10, window=fixed)
    ode = EulerODE(10, sampler.grid)
    start = part("start", "iid")
    path = sample(policy, sampler, start, keep="transitions", groups=2, size=3).path
    assert path is not None and path.log_prob is not None
    assert path.k.tolist() == [window] * 6 and path.x.shape == (6, len(window), 2)
    noise, x = draws(6), draws(6, "start").normal(4)
    for k in set(range(10)) - set(window):
        step = sampler.step(Gaussian(0.4, 0.5), x, k, {}, None, noise)
        euler = ode.step(Gaussian(0.4, 0.5), x, k, {}, None, noise)
        assert step.log_prob is None and torch.equal(step.x, euler.x)


def test_all_but_the_last_step_are_scored_by_default() -> None:
    sampler = FlowSDE(10, Double(3.0), 0.7)
    steps = run(sampler, Gaussian(0.4, 0.5), draws(3).normal(4), draws(3))
    assert scored(steps) == list(range(9))
    twin = run(sampler, Gaussian(0.4, 0.5), draws(3).normal(4), draws(3, "other"))
    assert not torch.equal(sampler.step(affine, steps[8].x, 9, {}, None, draws(3)).x, twin[9].x)


class _Spy:
    """Counts calls and remembers the times it was asked at."""

    def __init__(self) -> None:
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor, cond: object) -> Tensor:
        self.times.append(t)
        return 0.1 * x


def test_one_network_call_per_step_at_the_grid_time(part: Callable[..., Any], each_sampler: str) -> None:
    """Heun's two per step are at both its ends, but for the last."""
    sampler, spy = part("sampler", each_sampler), _Spy()
    run(sampler, spy, draws(3).normal(4), draws(3))
    times = sampler.times()[:-1].float()
    expected = times if each_sampler != "heun" else torch.stack([times[:-1], times[1:]], 1).flatten()
    expected = torch.cat([expected, times[-1:]]) if each_sampler == "heun" else expected
    assert all(t.shape == (3,) and t.dtype == torch.float32 for t in spy.times)
    torch.testing.assert_close(torch.stack([t[0] for t in spy.times]), expected)


@pytest.mark.parametrize("level", [0.0, -0.7, float("nan")])
def test_a_noise_level_that_is_not_positive_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=r"noise_level = .* must be positive.*sampler=ode"):
        FlowSDE(10, Double(3.0), level)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_steps = 1 leaves no scored step"):
        FlowSDE(1, Double(3.0), 0.7)
    for make in (EulerODE, DPM2):
        with pytest.raises(ValueError, match=r"num_steps = 0"):
            make(0, Double(3.0))
    one: Draws = draws(2)
    assert run(EulerODE(1, Double(3.0)), affine, one.normal(3), one)[0].x.shape == (2, 3)


def test_kernel_excess_variance() -> None:
    """``kappa^2 + std^2`` exceeds t'^2 by ``s^2 dt^2/t + s^4 dt^2/(4 t^2)`` and no more (section 1.2)."""
    sampler = FlowSDE(40, Single(3.0), 0.7)
    times, k = sampler.times(), torch.arange(1, 39)
    found: Coefficients = sampler.coefficients(k)
    t, t_next = times[k], times[k + 1]
    dt, s = t_next - t, 0.7 * (t / (1 - t)).sqrt()
    kappa = found.c1 - (1 - t_next)
    expected = s**2 * dt**2 / t + s**4 * dt**2 / (4 * t**2)
    torch.testing.assert_close(kappa**2 + found.std**2 - t_next**2, expected, rtol=1e-9, atol=1e-12)
