"""Class-conditional Gaussian mixture in the plane, with its densities and velocities in closed form.

Eight modes on a circle. Class c puts ``BOOST`` on mode c and spreads the rest evenly over all modes, so the
base obeys its prompt only now and then, as large models do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MODES = 8
RADIUS = 3.0
STD = 0.25
BOOST = 0.3


def centres() -> Tensor:
    """Mode centres [8,2]."""
    angle = 2 * math.pi * torch.arange(MODES) / MODES
    return RADIUS * torch.stack([angle.cos(), angle.sin()], 1)


def weights(label: Tensor) -> Tensor:
    """Mode weights by class: label [B] in 0..7, or 8 for no class -> [B,8]."""
    even = torch.full((len(label), MODES), 1 / MODES)
    known = label < MODES
    one_hot = torch.nn.functional.one_hot(label.clamp(max=MODES - 1), MODES).float()
    boosted = BOOST * one_hot + (1 - BOOST) * even
    return torch.where(known[:, None], boosted, even)


def sample(label: Tensor, generator: torch.Generator) -> Tensor:
    """One point per label [B] -> [B,2]."""
    mode = torch.multinomial(weights(label), 1, generator=generator).squeeze(1)
    return centres()[mode] + STD * torch.randn(len(label), 2, generator=generator)


def _log_joint(x: Tensor, label: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x_t, mode) [B,8] and the marginal variance [B,1] at time t [B]."""
    variance = ((1 - t) * STD).square() + t.square()
    offset = x[:, None] - (1 - t)[:, None, None] * centres().to(x)
    square = offset.square().sum(-1) / variance[:, None]
    log_joint = weights(label).to(x).log() - 0.5 * square - torch.log(2 * math.pi * variance)[:, None]
    return log_joint, variance[:, None]


def log_density(x: Tensor, label: Tensor, t: Tensor | None = None) -> Tensor:
    """log p_t(x | label) [B] in nats, not per dimension; t = 0 (the data) if None."""
    log_joint, _ = _log_joint(x, label, torch.zeros(len(x), dtype=x.dtype) if t is None else t)
    return log_joint.logsumexp(1)


def velocity(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """The exact marginal velocity ``E[eps - x0 | x_t]`` [B,2], valid on t in [0, 1]."""
    log_joint, variance = _log_joint(x, label, t)
    posterior = log_joint.softmax(1)
    centre = posterior @ centres().to(x)
    residual = x - (1 - t)[:, None] * centre  # = (1-t) (x0 - centre) + t eps, a Gaussian of that variance
    slope = (t[:, None] - (1 - t)[:, None] * STD**2) / variance
    return slope * residual - centre
