"""Kernels against their published vectors, against one another, and against what they claim to keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pieces import Gaussian, draws, moments, run
from torch import Tensor

from ablate.samplers.dance import DanceSDE
from ablate.samplers.gaussian import Coefficients, Level
from ablate.samplers.grids import Double, Sana, Single
from ablate.samplers.rho import CPS, DDIM, Churn, Exponential, Renoise, Rho
from ablate.samplers.sde import FlowSDE
from ablate.samplers.vp import VariancePreserving

F64 = torch.float64
GRID = Double(3.0)
# Scalar x = .5, v = .3, eps = .2 on the 10-step double grid (specification, section 14.1).
# (mean, std, x', score; c1, c2, kappa, weight c2^2/(2 std^2), u*)
PUBLISHED: dict[str, dict[int, tuple[float, ...]]] = {
    "dance": {
        0: (0.487142, 0.059903, 0.499122, 1.876091, 0.998206, -0.039871, 0.958335, 0.221504, -0.000486),
        4: (0.472410, 0.086476, 0.489705, 1.508951, 0.995269, -0.084082, 0.702548, 0.472695, 0.094305),
        8: (0.388053, 0.155630, 0.419179, 0.921333, 0.956445, -0.300565, -0.034626, 1.86491, 0.196441),
    },
    "cps": {
        0: (0.156322, 0.913137, 0.338950, -0.033353, 0.336567, -0.039871, 0.296696, 0.000953247, -4.280494),
        4: (0.199979, 0.672662, 0.334512, -0.018099, 0.511283, -0.185540, 0.218561, 0.0380412, -0.425084),
        8: (0.414843, 0.008492, 0.416541, -2.885e-6, 0.993831, -0.273574, 0.002759, 518.972, 0.293792),
    },
    "ddim": {
        0: (0.350809, 0.672091, 0.485227, -0.541576, 0.725540, -0.039871, 0.685669, 0.00175963, -3.071351),
        4: (0.412709, 0.380063, 0.488721, 0.028479, 0.889207, -0.106316, 0.596485, 0.0391248, -0.414972),
        8: (0.417436, 0.006248, 0.418686, 4.136509, 0.997449, -0.270962, 0.006378, 940.293, 0.295388),
    },
}
MADE = {
    "dance": DanceSDE(10, GRID, 0.3),
    "cps": VariancePreserving(10, GRID, CPS(0.8), normal=False),
    "ddim": VariancePreserving(10, GRID, DDIM(0.7)),
}
RHOS: tuple[Rho, ...] = (CPS(0.8), DDIM(0.7), Exponential(0.245, True), Exponential(1.0, False), Churn(0.1))


def vp(rho: Rho, steps: int = 10) -> VariancePreserving:
    return VariancePreserving(steps, GRID, rho)


def scalar(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=F64)


def same(one: Coefficients, two: Coefficients, within: float = 1e-12) -> None:
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=within)


@pytest.mark.parametrize(("name", "k"), [(name, k) for name in PUBLISHED for k in (0, 4, 8)])
def test_published_vectors(name: str, k: int) -> None:
    sampler = MADE[name]
    x, v = scalar(0.5), scalar(0.3)
    step = sampler.transition(x, torch.tensor([k]))
    x_next = step.sample(v, scalar(0.2))
    c1, c2, std = (c.item() for c in sampler.coefficients(torch.tensor([k])))
    found = [f.item() for f in (step.mean(v), step.std, x_next, step.log_prob(x_next, v))]
    kappa = c1 - (1 - float(sampler.times()[k + 1]))
    numbers = [*found, c1, c2, kappa, c2**2 / (2 * std**2), step.target(x_next).item()]
    assert numbers == pytest.approx(PUBLISHED[name][k], rel=1e-4, abs=1e-6)


def test_cps_step_noise() -> None:
    published = [0.9131, 0.8686, 0.8157, 0.7517, 0.6727, 0.5727, 0.4421, 0.2644, 0.0085, 0]
    std = MADE["cps"].coefficients(torch.arange(10)).std
    assert std.tolist() == pytest.approx(published, abs=5.1e-5)


def test_precise_keeps_what_it_says() -> None:
    """rho for eta = a^2/2 at a = 0.7, steps 1 to 8 of the double grid (frontier, section 7.1)."""
    rho = Exponential(0.245, True)(GRID(10), torch.arange(1, 9))
    assert rho.tolist() == pytest.approx([0.82, 0.87, 0.89, 0.90, 0.89, 0.87, 0.82, 0.40], abs=5.1e-3)


def test_precise_solves_the_sde_with_frozen_x0_hat() -> None:
    """``dx = ((x - x0)/t + g^2/2 (x - (1 - t) x0)/t^2) dt + g dw`` back in time, g^2 = 2 t eta/(1 - t).

    Its moments, integrated in 100,000 Euler steps, are those of one step from .6 to .46.
    """
    t, end, eta, x0, x1 = 0.6, 0.46, 0.245, 0.4, 1.3
    mean, variance, count = (1 - t) * x0 + t * x1, 0.0, 100_000
    dt = (end - t) / count
    for n in range(count):
        at = t + n * dt
        g2 = 2 * at * eta / (1 - at)
        pull = 1 / at + g2 / 2 / at**2
        mean += dt * ((mean - x0) / at + g2 / 2 * (mean - (1 - at) * x0) / at**2)
        variance += 2 * dt * pull * variance - g2 * dt
    times = torch.tensor([0.7, t, end, 0.0], dtype=F64)
    rho = float(Exponential(eta, True)(times, torch.tensor([1])))
    assert (1 - end) * x0 + end * rho * x1 == pytest.approx(mean, abs=2e-5)
    assert end * math.sqrt(1 - rho**2) == pytest.approx(math.sqrt(variance), abs=2e-5)
    assert (mean, math.sqrt(variance)) == pytest.approx((0.7366, 0.2264), abs=6e-5)  # as published


def test_dance_is_flow_sde_with_a_constant_diffusion() -> None:
    """``noise_level sqrt(t/(1 - t)) = 0.3`` at every step, through a list of levels."""
    times = GRID(10)
    t = times[:-1]
    levels = (0.3 / torch.sqrt(t / (1 - t.clamp(max=times[1])))).tolist()
    k = torch.arange(10)
    same(DanceSDE(10, GRID, 0.3).coefficients(k), FlowSDE(10, GRID, levels).coefficients(k))


def test_sde_dpm_solver_is_ddim_with_all_its_noise() -> None:
    """``x' = (t'/t) e^{-h} x + (1 - t')(1 - e^{-2h}) x0_hat + t' sqrt(1 - e^{-2h}) eps`` (MixGRPO's form)."""
    k = torch.arange(10)
    found = vp(Exponential(1.0, False)).coefficients(k)
    same(found, vp(DDIM(1.0)).coefficients(k))
    t, t_next = GRID(10)[1:9], GRID(10)[2:10]
    h = torch.log((1 - t_next) / t_next) - torch.log((1 - t) / t)
    of_x, of_x0 = t_next / t * torch.exp(-h), -(1 - t_next) * torch.expm1(-2 * h)
    std = t_next * torch.sqrt(-torch.expm1(-2 * h))
    same(Coefficients(*(c[1:9] for c in found)), Coefficients(of_x + of_x0, -of_x0 * t, std))


@given(gamma=st.floats(0.01, 5.0))
def test_churn_is_cps(gamma: float) -> None:
    k, level = torch.arange(10), math.acos(1 / (1 + gamma)) * 2 / math.pi
    same(vp(Churn(gamma)).coefficients(k), vp(CPS(level)).coefficients(k), within=1e-9)


@given(gamma=st.floats(1e-3, 5.0), t=st.floats(0.2, 1.0), share=st.floats(0.05, 0.95))
def test_churn_is_an_overshoot_made_good(gamma: float, t: float, share: float) -> None:
    """FDFO: Euler to ``q = t'/(1 + gamma - gamma t')``, divide by ``1 + gamma q``, add what noise lacks."""
    t_next, x, v = share * t, scalar(0.5), scalar(0.3)
    q = t_next / (1 + gamma - gamma * t_next)
    shrunk = (x + (q - t) * v) / (1 + gamma * q)
    rho = float(Churn(gamma)(torch.tensor([t, t_next], dtype=F64), torch.tensor([0])))
    clean, noise = x - t * v, x + (1 - t) * v
    torch.testing.assert_close(shrunk, (1 - t_next) * clean + t_next * rho * noise)


def test_pairs_start_as_churned_noise(part: Callable[..., Any]) -> None:
    rho = part("sampler", "churn").rho
    spread = math.sqrt(1 - float(rho(GRID(10), torch.tensor([0]))) ** 2)
    assert part("start", "pairs").spread == pytest.approx(spread, abs=5e-5)


def test_dmd_draws_all_noise_anew() -> None:
    """``x' ~ N((1 - t') x0_hat, t'^2)``, and CPS at level 1 is the same."""
    sampler, x, v = vp(Renoise(), 4), scalar(0.5), scalar(0.3)
    times = sampler.times()
    for k in range(4):
        step = sampler.transition(x, torch.tensor([k]))
        torch.testing.assert_close(step.mean(v), (1 - times[k + 1]) * (x - times[k] * v), rtol=0, atol=1e-12)
        assert float(step.std) == pytest.approx(float(times[k + 1]), abs=1e-12)
    same(sampler.coefficients(torch.arange(4)), vp(CPS(1.0), 4).coefficients(torch.arange(4)))


@pytest.mark.parametrize("rho", [CPS(1e-9), DDIM(1e-9), Exponential(1e-17, True), Churn(1e-17)])
@pytest.mark.parametrize("grid", [Double(3.0), Single(3.0), Sana(3.0)])
def test_without_noise_every_rho_is_euler(rho: Rho, grid: Double) -> None:
    sampler, x, v = VariancePreserving(10, grid, rho), scalar(0.5), scalar(0.3)
    times = sampler.times()
    for k in range(10):
        step = sampler.transition(x, torch.tensor([k]))
        torch.testing.assert_close(step.mean(v), x + (times[k + 1] - times[k]) * v, rtol=0, atol=1e-12)
        assert float(step.std) < 1e-7


@pytest.mark.parametrize("rho", [*RHOS, Renoise()])
def test_variance_is_preserved(rho: Rho) -> None:
    """``kappa^2 + std^2 = t'^2``, x0_hat weighs 1 - t', and rho lies in [0, 1]."""
    sampler = vp(rho)
    c, times = sampler.coefficients(torch.arange(10)), sampler.times()
    kappa = c.c1 - (1 - times[1:])
    torch.testing.assert_close(kappa.square() + c.std.square(), times[1:].square(), rtol=0, atol=1e-12)
    share = rho(times, torch.arange(10))
    assert ((share >= 0) & (share <= 1)).all()


@pytest.mark.parametrize("rho", [*RHOS, Renoise()])
def test_of_a_single_datum_any_number_of_steps_keeps_the_marginal(rho: Rho) -> None:
    """x0_hat is then exact, and x_t ~ N((1 - t) x0, t^2) at every step; Flow-SDE adds noise."""
    datum = Gaussian(0.4, 0.0)
    for steps in (2, 10):
        times, k = GRID(steps), torch.arange(steps - 1)
        spread = torch.ones(1, dtype=F64)
        for c1, c2, std, t, t_next in zip(
            *vp(rho, steps).coefficients(k), times[:-2], times[1:-1], strict=True
        ):
            spread = ((c1 + c2 / t) * spread).square() + std.square()
            spread = spread.sqrt()  # v = (x - x0)/t here
            torch.testing.assert_close(spread, t_next[None], rtol=1e-12, atol=0)
    mean, std_end = moments(vp(rho), datum)
    assert (mean, std_end) == pytest.approx((0.4, 0.0), abs=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        lambda steps: FlowSDE(steps, GRID, 0.7),
        lambda steps: DanceSDE(steps, GRID, 0.3),
        lambda steps: vp(DDIM(0.7), steps),
        lambda steps: vp(Exponential(0.245, True), steps),
        lambda steps: vp(Exponential(1.0, False), steps),
    ],
    ids=["flow", "dance", "ddim", "precise", "sde_dpm1"],
)
def test_marginal_is_kept_in_the_limit(make: Callable[[int], FlowSDE]) -> None:
    """Half the step, half the bias of the deviation; the mean has none."""
    flow = Gaussian(0.4, 0.5)
    (mean, coarse), (_, fine) = moments(make(100), flow), moments(make(200), flow)
    assert mean == pytest.approx(0.4, abs=1e-9)
    assert 0 < 0.5 - fine < 0.6 * (0.5 - coarse) < 0.03


@pytest.mark.parametrize("rho", [CPS(0.8), Churn(0.1), Renoise()])
def test_a_fixed_share_of_noise_has_no_such_limit(rho: Rho) -> None:
    """They keep the coefficients, not the law: the deviation stays too small, however many the steps."""
    flow = Gaussian(0.4, 0.5)
    coarse, fine = (moments(vp(rho, steps), flow)[1] for steps in (100, 200))
    assert 0.5 - fine > max(0.01, 0.6 * (0.5 - coarse))


def test_exact_solution_has_no_excess_noise_but_flow_sde_has() -> None:
    """(kappa^2 + std^2)/t'^2 of Flow-SDE at a = 0.7, steps 0 to 8 (frontier, section 7.1)."""
    c, times = FlowSDE(10, GRID, 0.7).coefficients(torch.arange(9)), GRID(10)
    excess = ((c.c1 - (1 - times[1:10])).square() + c.std.square()) / times[1:10].square()
    published = [1.09, 1.13, 1.06, 1.05, 1.05, 1.07, 1.14, 1.51, 722]
    assert excess.tolist() == pytest.approx(published, rel=5e-3)


def test_dance_returns_its_clean_estimate() -> None:
    sampler, x = DanceSDE(16, Single(3.0), 0.3), draws(3, "x").normal(4)
    last = sampler.step(Gaussian(0.4, 0.5), x, 15, {}, None, draws(3))
    torch.testing.assert_close(last.x, x - sampler.times()[15].to(x) * last.v)
    assert last.log_prob is None


def test_squared_distance_is_a_density_but_for_a_constant() -> None:
    """Flow-CPS's score has the gradient of the density, times 2 std^2."""
    plain, normal = MADE["cps"], vp(CPS(0.8))
    x, x_next = draws(2, "x").normal(3).double(), draws(2, "y").normal(3).double()
    for k in (0, 4):
        grads = []
        for sampler in (plain, normal):
            v = draws(2, "v").normal(3).double().requires_grad_()
            step = sampler.transition(x, torch.full((2,), k))
            grads.append(torch.autograd.grad(step.log_prob(x_next, v).sum(), v)[0])
        torch.testing.assert_close(grads[0], 2 * step.std.square() * grads[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda level: FlowSDE(4, GRID, level),
        lambda level: DanceSDE(4, GRID, level),
        lambda level: vp(CPS(level), 4),
        lambda level: vp(DDIM(level), 4),
        lambda level: vp(Exponential(level, True), 4),
        lambda level: vp(Churn(level), 4),
    ],
    ids=["flow", "dance", "cps", "ddim", "exponential", "churn"],
)
def test_a_level_may_be_a_list_with_one_for_each_step(make: Callable[[Level], FlowSDE]) -> None:
    levels = [0.1, 0.7, 0.3, 0.9]
    listed = make(levels).coefficients(torch.arange(4))
    for k, level in enumerate(levels):
        one = make(level).coefficients(torch.tensor([k]))
        same(one, Coefficients(*(c[k : k + 1] for c in listed)))
    with pytest.raises(ValueError, match=r"3 noise levels do not fit sampler.num_steps = 4"):
        make(levels[:3])
    for wrong in (0.0, -0.5, float("nan"), [0.1, 0.7, 0.0, 0.9]):
        with pytest.raises(ValueError, match=r"must be positive.*sampler=ode"):
            make(wrong)


@pytest.mark.parametrize("make", [CPS, DDIM])
def test_more_than_all_noise_is_refused(make: Callable[[float], Rho]) -> None:
    with pytest.raises(ValueError, match=r"= 1.2 must be positive and at most 1"):
        make(1.2)


def test_a_kernel_of_one_step_is_refused(part: Callable[..., Any], each_kernel: str) -> None:
    with pytest.raises(ValueError, match=r"num_steps = 1 leaves no scored step"):
        part("sampler", each_kernel, num_steps=1)


def test_last_step_of_a_variance_preserving_kernel_is_clean() -> None:
    for rho in (*RHOS, Renoise()):
        steps = run(vp(rho), Gaussian(0.4, 0.5), draws(3).normal(4), draws(3))
        before = steps[-2].x
        torch.testing.assert_close(steps[-1].x, before - vp(rho).times()[9].to(before) * steps[-1].v)
