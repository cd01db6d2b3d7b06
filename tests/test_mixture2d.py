"""The mixture2d testbed: its closed forms against each other, and the base that ships."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from pieces import draws
from torch import Tensor

from ablate.contract.errors import IncompatibleRun
from ablate.mixture2d import density
from ablate.mixture2d.density import MODES, RADIUS, STD
from ablate.mixture2d.network import BASE, MLP
from ablate.mixture2d.pretrain import error
from ablate.policies.mixture2d import Mixture2D
from ablate.weights_file import load_verified, provenance

LABELS = torch.arange(MODES + 1)
times = pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 1.0])


def plane(half: float, points: int) -> tuple[Tensor, float]:
    """A square grid of points [n^2,2] in fp64, and the area of a cell."""
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


@times
@pytest.mark.parametrize("label", [0, 5, MODES])
def test_the_density_integrates_to_one(t: float, label: int) -> None:
    x, area = plane(8.0, 401)
    log_p = density.log_density(x, torch.full((len(x),), label), torch.full((len(x),), t).double())
    assert float(log_p.exp().sum()) * area == pytest.approx(1, abs=1e-6)


def test_a_class_prefers_its_mode() -> None:
    """0.3 + 0.7/8 on its own, 0.7/8 on each other, 1/8 without a class; each mode is on the circle."""
    weights = density.weights(LABELS)
    torch.testing.assert_close(weights.sum(1), torch.ones(MODES + 1))
    torch.testing.assert_close(weights[:MODES].diagonal(), torch.full((MODES,), 0.3875))
    assert float(weights[0, 1]) == pytest.approx(0.0875) and weights[MODES].tolist() == [1 / 8] * 8
    torch.testing.assert_close(density.centres().norm(dim=1), torch.full((MODES,), RADIUS))


def test_noise_is_standard_normal() -> None:
    x = draws(50, "x").normal(2).double()
    normal = -0.5 * x.square().sum(1) - math.log(2 * math.pi)
    label = torch.arange(50) % 9
    torch.testing.assert_close(density.log_density(x, label, torch.ones(50).double()), normal)


def test_samples_have_the_density() -> None:
    """The share of 40,000 samples per mode within 5 standard errors of its weight, and their spread."""
    count, label = 40_000, 2
    x = density.sample(torch.full((count,), label), torch.Generator().manual_seed(0))
    distance = torch.cdist(x, density.centres())
    share = torch.bincount(distance.argmin(1), minlength=MODES) / count
    weights = density.weights(torch.tensor([label]))[0]
    assert ((share - weights).abs() < 5 * (weights * (1 - weights) / count).sqrt()).all()
    spread = distance.amin(1).square().mean().sqrt() / math.sqrt(2)
    assert float(spread) == pytest.approx(STD, abs=5 * STD / math.sqrt(4 * count))


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 1.0])
def test_velocity_and_score(t: float) -> None:
    """``grad log p_t(x) = -(x + (1 - t) v)/t``: two closed forms that were written separately."""
    x = 3 * draws(64, "x").normal(2).double()
    label, at = torch.arange(64) % 9, torch.full((64,), t).double()
    v = density.velocity(x, at, label)
    x.requires_grad_()
    score = torch.autograd.grad(density.log_density(x, label, at).sum(), x)[0]
    torch.testing.assert_close(score, -(x.detach() + (1 - t) * v) / t, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("t", [0.2, 0.6, 0.95])
def test_velocity_is_the_mean_of_eps_minus_x0(t: float) -> None:
    """``E[(eps - x0) f(x_t)] = E[v(x_t) f(x_t)]`` for any f, within 5 standard errors of 200,000 draws."""
    generator, count = torch.Generator().manual_seed(1), 200_000
    label = torch.full((count,), 3)
    x0, eps = density.sample(label, generator), torch.randn(count, 2, generator=generator)
    x_t = (1 - t) * x0 + t * eps
    rest = (eps - x0) - density.velocity(x_t, torch.full((count,), t), label)
    for f in (torch.ones_like(x_t), x_t, x_t.flip(1), x_t.sin(), (x_t.norm(dim=1, keepdim=True) < 2).float()):
        product = rest * f
        assert (product.mean(0).abs() < 5 * product.std(0) / math.sqrt(count)).all()


def test_the_flow_obeys_continuity() -> None:
    """``dp/dt = -div(p v)`` at points of the plane: density and velocity belong to one flow."""
    x = 2 * draws(64, "x").normal(2).double()
    label, t = torch.arange(64) % 9, (0.05 + 0.9 * draws(64, "t").uniform()).double()
    x.requires_grad_()
    t.requires_grad_()
    log_p = density.log_density(x, label, t)
    score, rate = torch.autograd.grad(log_p.sum(), (x, t), retain_graph=True)
    v = density.velocity(x, t, label)
    divergence = sum(torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    torch.testing.assert_close(rate, -(divergence + (score * v).sum(1)), rtol=1e-6, atol=1e-5)


def test_the_base_ships_with_its_provenance() -> None:
    facts = provenance(BASE)
    assert {"command", "seed", "sha256", "steps", "torch"} <= set(facts)
    network = MLP()
    network.load_state_dict(load_verified(BASE))


def test_the_base_is_close_to_the_exact_velocity() -> None:
    """Mean squared error under 1 % of the velocity's own variance, with a class and without."""
    network, generator = Mixture2D().network, torch.Generator().manual_seed(2)
    count = 20_000
    for label in (torch.arange(count) % MODES, torch.full((count,), MODES)):
        x0, eps = density.sample(label, generator), torch.randn(count, 2, generator=generator)
        t = torch.rand(count, generator=generator)
        x_t = (1 - t)[:, None] * x0 + t[:, None] * eps
        exact = density.velocity(x_t, t, label)
        with torch.no_grad():
            wrong = error(network, x_t, t, label)
        assert float(wrong) < 0.01 * float(exact.var(0).mean())


def test_a_damaged_base_is_refused(tmp_path: Path) -> None:
    """A single byte, the file, or its provenance: each is told, with the cure."""
    copy = tmp_path / BASE.name
    facts = copy.with_suffix(".json")

    def restore() -> None:
        shutil.copy(BASE, copy)
        shutil.copy(BASE.with_suffix(".json"), facts)

    restore()
    assert load_verified(copy).keys() == load_verified(BASE).keys()
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(bytes(data))
    with pytest.raises(IncompatibleRun, match=r"has sha256 .* its provenance file says .*make base"):
        load_verified(copy)
    restore()
    copy.unlink()
    with pytest.raises(IncompatibleRun, match=r"base.safetensors is missing; .*make base"):
        load_verified(copy)
    restore()
    facts.unlink()
    with pytest.raises(IncompatibleRun, match=r"base.json is missing.*make base"):
        load_verified(copy)
    restore()
    facts.write_text(json.dumps(provenance(BASE) | {"sha256": "0" * 64}))
    with pytest.raises(IncompatibleRun, match="provenance file says 000000000000"):
        load_verified(copy)


def test_prompts_are_modes() -> None:
    bed = Mixture2D()
    assert bed.encode(["mode 0", "mode 7", ""])["label"].tolist() == [0, 7, MODES]
    assert torch.equal(bed.decode(torch.ones(3, 2)), torch.ones(3, 2))
