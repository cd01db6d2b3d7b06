"""DMD-shaped losses as policy gradients and anchors; and how far RAM's fixed point is from the optimum."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pieces import Gaussian, credit, evaluation, gradient, point
from test_objectives import feedback, off_policy

from ablate.estimators.weights import Adaptive, Uniform
from ablate.objectives.dmd import DMD, plain, squashed
from ablate.objectives.epg import EPG
from ablate.objectives.velocity_matching import VelocityMatching

seeds, distances = st.integers(0, 10**6), st.floats(0, 1)


@given(seed=seeds, distance=distances, beta=st.floats(0, 2))
def test_dmd_is_half_of_epg_and_an_anchor_under_one_normaliser(
    seed: int, distance: float, beta: float
) -> None:
    query, v, others = off_policy(seed, distance, Adaptive())
    fb = feedback(seed, EPG())
    t = query.t[:, None]
    size = (t * (v - query.target).abs()).mean(1, keepdim=True)
    anchor = beta * t.square() * (v - others["ref"]) / size / v.numel()
    for coef in (plain, squashed):
        policy = gradient(EPG(ratio=False), query, v, {}, replace(fb, advantage=coef(fb.advantage)))
        found = gradient(DMD(coef, beta), query, v, others, fb)
        torch.testing.assert_close(found, 0.5 * policy + anchor)
    assert DMD(plain).uses == frozenset() and DMD(plain, beta=0.1).uses == {"v:ref"}


def test_dmd_loss_by_its_definition() -> None:
    """Half the mean square of w g, x0 and x0_hat taken from the sample itself."""
    query, v, others = off_policy(3, 0.5, Uniform())
    fb, t = feedback(3, EPG()), query.t[:, None]
    hat, hat_ref, x0 = query.x_t - t * v, query.x_t - t * others["ref"], query.x_t - t * query.target
    g = squashed(fb.advantage)[:, None] * (x0 - hat) + 0.3 * (hat_ref - hat)
    w = 1 / (hat - x0).abs().mean(1, keepdim=True)
    objective = DMD(squashed, 0.3)
    loss = objective(evaluation(query, v, others, objective), fb)
    torch.testing.assert_close(loss.per_sample, 0.5 * (w * g).square().mean(1))
    torch.testing.assert_close(squashed(fb.advantage), (fb.advantage / 2).tanh())
    torch.testing.assert_close(loss.metrics["weight"], w.mean())


def test_dmd_of_a_perfect_network_is_finite() -> None:
    query, _, _ = off_policy(4, 0.0, Uniform())
    slope = gradient(DMD(plain), query, query.target, {}, feedback(4, EPG()))
    assert torch.equal(slope, torch.zeros_like(slope))


def test_dmd_refuses() -> None:
    with pytest.raises(ValueError, match=r"objective.floor = 0.0 must be positive"):
        DMD(plain, floor=0.0)
    with pytest.raises(ValueError, match=r"objective.beta = -1.0 must be 0 or more"):
        DMD(plain, beta=-1.0)


def test_ram_is_biased_at_the_optimum() -> None:
    """Base N(0, 1), reward -x^2/2, optimum N(0, 1/2); at t = 1/2 it needs 2x/3 and RAM asks for 4x/9.

    Where the sampler is the optimum, x0 given x is N(2x/3, 1/3); the mean over it is by Gauss and Hermite.
    """
    nodes, weights = (torch.from_numpy(z) for z in np.polynomial.hermite_e.hermegauss(12))
    weights = weights / math.sqrt(2 * math.pi)
    base, optimum = Gaussian(0.0, 1.0), Gaussian(0.0, math.sqrt(0.5))
    for x in (-1.3, 0.4, 2.0):
        x0 = 2 * x / 3 + math.sqrt(1 / 3) * nodes[:, None]
        t = torch.full((12,), 0.5).double()
        query = point(x0, 2 * x - x0, t, Uniform())
        torch.testing.assert_close(query.x_t, torch.full_like(query.x_t, x))
        of = {"old": optimum(query.x_t, t, {}), "ref": base(query.x_t, t, {})}
        away = {share: of["ref"] + share * x for share in (4 / 9, 2 / 3)}
        fb = credit(-0.5 * x0[:, 0].square())
        slope = {
            share: float(12 * weights @ gradient(VelocityMatching("ref", 1.0), query, v, of, fb)[:, 0])
            for share, v in away.items()
        }
        assert slope[4 / 9] == pytest.approx(0, abs=1e-9)
        assert slope[2 / 3] == pytest.approx(2 * (2 / 3 - 4 / 9) * x)
        torch.testing.assert_close(of["old"] - of["ref"], torch.full_like(query.x_t, 2 * x / 3))
