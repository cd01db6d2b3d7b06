"""Identities that hold for every kernel, DGPO's published weight, and RAM's bias in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import vectors
from hypothesis import given
from hypothesis import strategies as st
from pieces import credit, draws, gradient, point

from ablate.estimators.weights import Uniform
from ablate.objectives.dgpo import DGPO
from ablate.objectives.velocity_matching import VelocityMatching
from ablate.types import Transition

Make = Callable[..., Any]
values = st.floats(-3, 3)


def test_every_kernel_mixes_the_clean_and_the_noise_estimate(part: Make, each_kernel: str) -> None:
    """``mean = c1 x + c2 v = (1 - t') x0_hat + kappa x1_hat`` at every step that is scored."""
    sampler = part("sampler", each_kernel)
    steps = sampler.num_steps - 1
    x, v = (draws(steps, name).normal(3).double() for name in "xv")
    step: Transition = sampler.transition(x, torch.arange(steps))
    times = sampler.times()
    t, t_next = times[:steps, None], times[1 : steps + 1, None]
    kappa = sampler.coefficients(torch.arange(steps)).c1[:, None] - (1 - t_next)
    expected = (1 - t_next) * (x - t * v) + kappa * (x + (1 - t) * v)
    torch.testing.assert_close(step.mean(v), expected, rtol=0, atol=1e-12)


def test_every_kernel_is_a_regression_on_what_it_drew_with(part: Make, each_kernel: str) -> None:
    """``log p = -weight mean (v - u*)^2 + const`` to 1e-12 and ``u* = v_b + (std/c2) eps``.

    The weight is c2^2/(2 std^2), or c2^2 where draws are scored without their variance.
    """
    sampler = part("sampler", each_kernel)
    steps = sampler.num_steps - 1
    x, v_b, v, eps = (draws(steps, name).normal(3).double() for name in ("x", "b", "v", "eps"))
    step: Transition = sampler.transition(x, torch.arange(steps))
    x_next = step.sample(v_b, eps)
    target = step.target(x_next)
    torch.testing.assert_close(target, v_b + step.std / step.c2 * eps, rtol=1e-9, atol=1e-9)
    weight = (step.c2.square() / (2 * step.std.square() if step.normal else 1)).squeeze(1)
    const = step.log_prob(x_next, target)
    regression = -weight * (v - target).square().mean(1) + const
    torch.testing.assert_close(step.log_prob(x_next, v), regression, rtol=1e-12, atol=1e-12)


@given(shift=values, eps=values, c1=values, c2=st.floats(0.05, 2), std=st.floats(0.05, 2))
def test_a_log_ratio_is_its_bias_and_its_noise(
    shift: float, eps: float, c1: float, c2: float, std: float
) -> None:
    """``log r = -(m1 + m2)``, m1 = mean (c D)^2 / 2, m2 = mean c D eps, c = |c2|/std, for any kernel."""
    x, v_b, noise, push = (draws(2, name).normal(3).double() for name in ("x", "b", "eps", "push"))
    difference, noise = shift * push, eps + noise
    one = torch.ones(2, 1).double()
    step = Transition(c1 * x, -c2 * one, std * one)
    x_next = step.sample(v_b, noise)
    log_ratio = step.log_prob(x_next, v_b + difference) - step.log_prob(x_next, v_b)
    c = c2 / std
    m1, m2 = 0.5 * (c * difference).square().mean(1), (c * difference * noise).mean(1)
    torch.testing.assert_close(log_ratio, -(m1 + m2), rtol=1e-9, atol=1e-9)


def test_dgpo_published_ratio_and_preference() -> None:
    query, (theta, old, ref) = point(vectors.X0, vectors.EPS, vectors.T, Uniform()), vectors.ELBO["uniform"]
    scores = torch.stack([query.log_prob(v) for v in vectors.VELOCITIES.values()])
    torch.testing.assert_close(scores, torch.stack([theta, old, ref]), rtol=0, atol=6e-9)
    assert (scores[0] - scores[1]).exp().tolist() == pytest.approx(vectors.DGPO_RATIO, abs=6e-9)
    sharp = DGPO(100.0, 1e-2)
    weight = torch.sigmoid(torch.tensor(vectors.DGPO_PREFERENCE).double())
    expected = -weight * vectors.A[:, None] * 2 * (vectors.TARGET - vectors.THETA) / 4 / 2
    found = gradient(sharp, query, vectors.THETA, vectors.VELOCITIES, credit(vectors.A))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_the_bias_of_ram() -> None:
    """Reference N(0, 1), r = -x^2/2, optimum N(0, 1/2), t = 1/2: RAM's own fixed point is 4x/9, not 2x/3.

    Endpoints of the optimum given x_t are N(2x/3, 1/3); Gauss-Hermite quadrature of 20 nodes is exact here.
    """
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.hermite_e.hermegauss(20))
    weights = weights / weights.sum()
    for x in (-1.3, 0.4, 2.0):
        x0 = (2 * x / 3 + nodes / 3**0.5)[:, None]
        half = torch.full((20,), 0.5).double()
        query = point(x0, (x - 0.5 * x0) / 0.5, half, Uniform())
        torch.testing.assert_close(query.x_t, torch.full((20, 1), x).double())
        optimum, base = torch.full((20, 1), 2 * x / 3).double(), torch.zeros(20, 1).double()
        torch.testing.assert_close((weights * query.target[:, 0]).sum(), optimum[0, 0])
        objective, reward = VelocityMatching("ref", 1.0), -0.5 * x0[:, 0].square()
        slopes = 20 * gradient(objective, query, optimum, {"old": optimum, "ref": base}, credit(reward))
        rests_at = optimum[0, 0] - (weights * slopes[:, 0]).sum() / 2
        assert float(rests_at) == pytest.approx(4 * x / 9)
