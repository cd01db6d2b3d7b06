"""Deterministic solvers and SA-Solver: order, identities, and the edits of AWM's grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pieces import Gaussian, draws, quiet, run
from torch import Tensor

from ablate.protocols import Sampler
from ablate.samplers.dpm1 import DPM1
from ablate.samplers.grids import AWM, Double, Sana, Single
from ablate.samplers.heun import Heun
from ablate.samplers.ode import EulerODE
from ablate.samplers.rho import Exponential
from ablate.samplers.sa import SASolver
from ablate.samplers.vp import VariancePreserving

F64 = torch.float64
FLOW = Gaussian(0.4, 0.5)
X_1 = torch.linspace(-2, 2, 9, dtype=F64).view(1, 9)


@dataclass(frozen=True)
class EvenLogSNR:
    """Times at even steps of log((1 - t)/t) from -4 to 4, then 0: here orders show from few steps on."""

    def __call__(self, num_steps: int) -> Tensor:
        log_snr = torch.linspace(-4, 4, num_steps, dtype=F64)
        return torch.cat([torch.sigmoid(-log_snr), torch.zeros(1, dtype=F64)])


def before_last(sampler: Sampler) -> Tensor:
    """The state before the last step, in the mean over the noise."""
    return run(sampler, FLOW, X_1, quiet(1))[-2].x


@pytest.mark.parametrize("grid", [Double(3.0), Single(3.0), Sana(3.0), AWM(3.0)])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_dpm1_is_euler(grid: Double, steps: int) -> None:
    first = run(DPM1(steps, grid), FLOW, X_1, draws(1))
    euler = run(EulerODE(steps, grid), FLOW, X_1, draws(1))
    for one, other in zip(first, euler, strict=True):
        assert one.log_prob is None
        torch.testing.assert_close(one.x, other.x, rtol=0, atol=1e-12)


def test_heun_is_second_order() -> None:
    def error(steps: int) -> float:
        end = run(Heun(steps, Single(3.0)), FLOW, X_1, draws(1))[-1].x
        return float((end - FLOW.flow(X_1)).abs().max())

    assert 3.5 < error(40) / error(80) < 4.5


def test_heun_is_exact_where_the_velocity_is_linear_in_time() -> None:
    """v = 3 - 4t takes x to x - (3 - 2) from t = 1 to 0, but for Euler's last step."""
    sampler = Heun(8, Single(1.0))
    end = run(sampler, lambda x, t, cond: (3 - 4 * t).view(-1, 1).to(x).expand_as(x), X_1, draws(1))[-1].x
    last = 1 / 8
    missing = (3 - 4 * last) * last - (3 * last - 2 * last**2)  # Euler's step less the integral
    torch.testing.assert_close(end, X_1 - 1 - missing, rtol=0, atol=1e-7)


@pytest.mark.parametrize("tau", [0.0, 0.6])
def test_sa_solver_is_second_order(tau: float) -> None:
    """In the mean over the noise, against first-order steps of the same SDE, extrapolated to none."""
    eta = max(tau**2, 1e-12)
    coarse, fine = (
        before_last(VariancePreserving(steps, EvenLogSNR(), Exponential(eta, False))) for steps in (400, 800)
    )
    exact = 2 * fine - coarse

    def error(steps: int) -> float:
        return float((before_last(SASolver(steps, EvenLogSNR(), tau, 0.0, 1.0)) - exact).abs().max())

    assert 3.5 < error(21) / error(41) < 7
    assert 3.5 < error(41) / error(81) < 6
    assert error(21) < float((before_last(EulerODE(21, EvenLogSNR())) - exact).abs().max()) / 2


def test_sa_solver_at_tau_one_keeps_the_clean_estimate_of_a_gaussian() -> None:
    """Along the reverse SDE x0_hat is a martingale, so every number of steps has the same mean."""
    ends = [before_last(SASolver(steps, EvenLogSNR(), 1.0, 0.0, 1.0)) for steps in (5, 40)]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-6)  # the network is told t in fp32


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_first_step_of_sa_solver_is_a_step_of_its_sde(tau: float) -> None:
    """``rho = e^{-tau^2 h}``: mean and noise are those of the exponential kernel."""
    grid, noise = AWM(3.0), draws(1)
    step = SASolver(14, grid, tau, 0.0, 1.0).step(FLOW, X_1, 0, {}, None, noise)
    kernel = VariancePreserving(14, grid, Exponential(tau**2, False)).transition(X_1, torch.tensor([0]))
    torch.testing.assert_close(step.x, kernel.sample(step.v, noise.normal(9)))


def test_sa_solver_in_closed_form() -> None:
    """Two steps and their correction written out, with v = x - 1, so x0_hat = (1 - t) x + t."""
    grid, tau = AWM(3.0), 0.5
    sampler, x, noise = SASolver(5, grid, tau, 0.0, 1.0), torch.tensor([[0.7]], dtype=F64), draws(1)
    t = grid(5).tolist()
    log_snr = torch.log((1 - grid(5)) / grid(5)).tolist()
    n, carry, states, clean, eps = tau**2, None, [], [], []
    for k in range(4):
        step = sampler.step(lambda x, t, cond: x - 1, x, k, {}, carry, noise.of("step", k))
        states.append(float(x))
        clean.append((1 - t[k]) * float(x) + t[k])
        eps.append(float(noise.of("step", k).normal(1)))
        x, carry = step.x, step.carry
    states.append(float(x))

    def formula(k: int, start: float, slope: float) -> float:
        h = log_snr[k + 1] - log_snr[k]
        a = (1 + n) * h
        e = torch.exp(-torch.tensor([n * h, a, 2 * n * h], dtype=F64)).tolist()
        drift = (1 - e[1]) * clean[k] + a * h / 2 * slope
        return t[k + 1] / t[k] * e[0] * start + (1 - t[k + 1]) * drift + t[k + 1] * (1 - e[2]) ** 0.5 * eps[k]

    slopes = [(clean[k] - clean[k - 1]) / (log_snr[k] - log_snr[k - 1]) for k in range(1, 4)]
    first = formula(0, states[0], 0.0)
    second = formula(1, first, slopes[0])  # the first result is not corrected
    corrected = formula(1, first, slopes[1])
    third = formula(2, corrected, slopes[1])
    again = formula(2, corrected, slopes[2])
    fourth = formula(3, again, slopes[2])
    assert states[1:] == pytest.approx([first, second, third, fourth], rel=1e-5)


def test_sa_solver_draws_noise_in_its_range_alone() -> None:
    sampler = SASolver(14, AWM(3.0), 0.4, 0.3, 0.9)
    one, other = (run(sampler, FLOW, X_1, draws(1, name)) for name in "ab")
    times = sampler.times()
    for k in range(14):
        still = SASolver(14, AWM(3.0), 0.0, 0.3, 0.9)
        noisy = bool(0.3 <= times[k + 1] <= 0.9)
        steps = [s.step(FLOW, X_1, k, {}, None, draws(1)).x for s in (sampler, still)]
        assert torch.equal(*steps) != noisy
    assert not torch.equal(one[-1].x, other[-1].x)


def test_sa_solver_returns_the_last_clean_estimate(part: Callable[..., Any]) -> None:
    sampler = part("sampler", "sa")
    steps = run(sampler, FLOW, X_1, draws(1))
    expected = steps[-2].x - sampler.times()[-2] * steps[-1].v
    assert torch.equal(steps[-1].x, expected)


@pytest.mark.parametrize("grid", [Double(3.0), Single(3.0)])
def test_sa_solver_refuses_an_infinite_log_snr(grid: Double) -> None:
    with pytest.raises(ValueError, match=r"starts at t = 1.*choose .*AWM"):
        SASolver(14, grid, 0.4, 0.3, 0.9)


@pytest.mark.parametrize(("tau", "low", "high"), [(-0.1, 0.3, 0.9), (0.4, 0.9, 0.3), (0.4, 0.3, 1.1)])
def test_sa_solver_refuses_numbers_out_of_range(tau: float, low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"sampler.tau = .* low = .* < high = "):
        SASolver(14, AWM(3.0), tau, low, high)


def test_awm_edits_two_times() -> None:
    plain, edited = Double(3.0)(14), AWM(3.0)(14)
    assert float(edited[0]) == 1 - 1e-3
    assert float(edited[-2]) == pytest.approx(0.10310, abs=5.1e-6)
    assert torch.equal(edited[1:-2], plain[1:-2]) and edited[-1] == 0
