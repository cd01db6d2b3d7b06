"""The oracle: exact where the density is known, unbiased where the trace is estimated, never a trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import CONF
from pieces import Gaussian, draws
from tiny_sd3 import SD3
from torch import Tensor
from torch.distributions import Normal

from ablate import build
from ablate.contract import compat
from ablate.contract.errors import UserError
from ablate.estimators.exact import Exact
from ablate.estimators.trace import Axes, Hutchinson
from ablate.key import Key
from ablate.mixture2d import density
from ablate.policies.policy import RolePolicy
from ablate.policies.roles import Full
from ablate.protocols import Policy
from ablate.types import Cond

Make = Callable[..., Any]
LABEL = torch.arange(24) % 9
COND: Cond = {"label": LABEL}


def mixture(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    return density.velocity(x, t, cond["label"])


@pytest.fixture
def points() -> Tensor:
    return density.sample(LABEL, torch.Generator().manual_seed(0)).double()


def test_closed_form_of_a_gaussian() -> None:
    """Per dimension, and for any shape of the latent."""
    flow, x0 = Gaussian(0.4, 0.5), draws(5).normal(1, 3).double()
    found = Exact(20, Axes()).log_prob(flow, x0, {}, draws(5))
    expected = Normal(0.4, 0.5).log_prob(x0).flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_closed_form_of_the_mixture(points: Tensor) -> None:
    found = Exact(40, Axes()).log_prob(mixture, points, COND, draws(24))
    torch.testing.assert_close(found, density.log_density(points, LABEL) / 2, rtol=0, atol=2e-4)


def test_fourth_order(points: Tensor) -> None:
    """Half the step, at most a tenth of the error."""
    true = density.log_density(points, LABEL) / 2

    def error(steps: int) -> float:
        return float((Exact(steps, Axes()).log_prob(mixture, points, COND, draws(24)) - true).abs().max())

    assert error(24) < error(12) / 10


def test_shipped_base_is_close_to_the_truth(policy: Policy, points: Tensor) -> None:
    """A trained network's density, at samples of the data: within 0.1 nats per dimension in the mean."""
    x0 = points.float()
    found = Exact(20, Axes()).log_prob(policy.velocity("ref"), x0, policy.encode(prompts()), draws(24))
    true = density.log_density(x0, LABEL) / 2
    assert float((found - true).abs().mean()) < 0.1


def prompts() -> list[str]:
    return [f"mode {label}" if label < density.MODES else "" for label in LABEL.tolist()]


def test_it_costs_what_it_says_and_leaves_no_gradient(policy: Policy, points: Tensor) -> None:
    before = policy.forwards
    found = Exact(3, Axes()).log_prob(
        policy.velocity("theta"), points.float(), policy.encode(prompts()), draws(24)
    )
    assert not found.requires_grad
    assert policy.forwards - before == 24 * 3 * 4 * 2  # rows, steps, stages, dimensions
    assert all(parameter.grad is None for parameter in policy.parameters())


def quadratic_forms(z: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("nbi,ij,nbj->b", z, matrix, z)


def test_directions_make_the_trace() -> None:
    """Exactly on the axes; by random signs in the mean, with variance 2 sum_{i!=j} S_ij^2 / probes."""
    matrix = draws(5, "matrix").normal(5).double()
    x = torch.zeros(4000, 5).double()
    torch.testing.assert_close(quadratic_forms(Axes()(x, draws(4000)), matrix), matrix.trace().expand(4000))
    symmetric = (matrix + matrix.T) / 2
    off = symmetric - symmetric.diagonal().diag()
    for probes in (1, 4):
        z = Hutchinson(probes)(x, draws(4000))
        assert z.shape == (probes, 4000, 5) and torch.equal(z.abs(), torch.full_like(z, probes**-0.5))
        forms = quadratic_forms(z, matrix)
        deviation = float((2 * off.square().sum() / probes).sqrt())
        assert float(forms.mean() - matrix.trace()) == pytest.approx(0, abs=5 * deviation / 4000**0.5)
        assert float(forms.std()) == pytest.approx(deviation, rel=0.1)
    diagonal = torch.diag(torch.arange(5.0)).double()
    torch.testing.assert_close(quadratic_forms(Hutchinson(1)(x, draws(4000)), diagonal), x[:, 0] + 10)


def test_hutchinsons_mean_is_the_exact_trace(points: Tensor) -> None:
    """Of the whole log-density: 150 estimates of one sample, within 5 standard errors of the oracle's."""
    count, steps = 150, 20
    x0, cond = points[3:4].repeat(count, 1), {"label": LABEL[3:4].repeat(count)}
    exact = Exact(steps, Axes()).log_prob(mixture, points[3:4], {"label": LABEL[3:4]}, draws(1))
    estimates = Exact(steps, Hutchinson(1)).log_prob(mixture, x0, cond, draws(count))
    assert float(estimates.std()) > 0.05
    error = float(estimates.std()) / count**0.5
    assert float(estimates.mean()) == pytest.approx(float(exact), abs=5 * error)


def test_an_estimate_can_be_had_again(points: Tensor) -> None:
    """Its noise belongs to the sample, not to the batch."""
    oracle = Exact(4, Hutchinson(2))
    whole = oracle.log_prob(mixture, points, COND, Key((1,)).rows(torch.arange(24)))
    index = torch.tensor([7, 2])
    again = oracle.log_prob(mixture, points[index], {"label": LABEL[index]}, Key((1,)).rows(index))
    torch.testing.assert_close(again, whole[index], rtol=0, atol=1e-12)
    other = oracle.log_prob(mixture, points, COND, Key((2,)).rows(torch.arange(24)))
    assert not torch.allclose(other, whole)


def test_attention_is_no_obstacle() -> None:
    """On a transformer Hutchinson's divergence along the way equals finite differences of the velocity."""
    policy = RolePolicy(
        SD3(), tuning="full", tunings={"full": Full()}, guidance={}, snapshots=(), device=torch.device("cpu")
    )
    x0, cond = 0.3 * draws(2).normal(*SD3.shape), policy.encode(["a", "bb"])
    oracle, z = Exact(1, Hutchinson(1)), Hutchinson(1)(x0, draws(2))[0]
    found = oracle.log_prob(policy.velocity("ref"), x0, cond, draws(2))

    def slope(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        field, at, step = policy.velocity("ref"), torch.full((2,), t), 1e-2
        change = (field(x + step * z, at, cond) - field(x - step * z, at, cond)) / (2 * step)
        return field(x, at, cond), (z * change).flatten(1).sum(1)

    v1, d1 = slope(x0, 0.0)
    v2, d2 = slope(x0 + 0.5 * v1, 0.5)
    v3, d3 = slope(x0 + 0.5 * v2, 0.5)
    v4, d4 = slope(x0 + v3, 1.0)
    x_1 = x0 + (v1 + 2 * v2 + 2 * v3 + v4) / 6
    divergence = (d1 + 2 * d2 + 2 * d3 + d4) / 6
    expected = Normal(0.0, 1.0).log_prob(x_1).flatten(1).mean(1) + divergence / x0[0].numel()
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_training_with_the_oracle_is_refused(compose: Make) -> None:
    """In one line, at plan time and without torch; and if somebody gets past that, when it is built."""
    config = compose("estimator=exact")
    (reason,) = compat.problems(config, {"estimator": "exact"}, CONF)
    assert reason.startswith("estimator=exact requires 'diagnostics'") and "\n" not in reason
    with pytest.raises(UserError, match="Exact"):
        build.light(config)


def test_the_option_builds_an_oracle(node: Make) -> None:
    oracle = build.make(node("estimator", "exact"))
    assert oracle == Exact(100, Axes())
    assert "queries" not in dir(oracle)  # an Oracle, not an Estimator


@pytest.mark.parametrize(
    ("make", "message"), [(lambda: Exact(0, Axes()), "num_steps = 0"), (lambda: Hutchinson(0), "probes = 0")]
)
def test_too_few_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
