"""How much of the noise a variance-preserving step keeps: ``rho [B]`` in [0, 1] for steps ``k`` of a grid.

1 keeps all (an Euler step), 0 draws all of it anew. Published samplers differ in this number alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ablate.samplers.gaussian import Level, check_level, level_at


class Rho(Protocol):
    """``(times [K+1], k [B]) -> rho [B]``, fp64."""

    def __call__(self, times: Tensor, k: Tensor) -> Tensor: ...


def decay(times: Tensor, k: Tensor, highest: Tensor) -> Tensor:
    """``e^{-h} = t'(1 - t) / (t(1 - t'))``, h the gain in log((1 - t)/t); 0 from t = 1 and to t' = 0.

    In 1 - t, t is at most ``highest``.
    """
    t, t_next = times[k], times[k + 1]
    return t_next * (1 - t.clamp(max=highest)) / (t * (1 - t_next))


@dataclass(frozen=True)
class CPS:
    """``cos(a pi/2)`` (coefficient-preserving sampling, arXiv:2509.05952, as its code has it).

    Attributes:
        noise_level: a in (0, 1], or a list with one for each step; 0.8 in Flow-CPS. Above 1 noise would fall.
    """

    noise_level: Level

    def __post_init__(self) -> None:
        check_level("rho.noise_level", self.noise_level, most=1.0)

    def __call__(self, times: Tensor, k: Tensor) -> Tensor:
        return torch.cos(level_at(self.noise_level, k, len(times) - 1) * math.pi / 2)


@dataclass(frozen=True)
class DDIM:
    """``sqrt(1 - eta^2 (1 - e^{-2h}))``, i.e. ``std = eta t' sqrt(1 - e^{-2h})`` (arXiv:2010.02502 Eq. 16).

    Attributes:
        eta: in (0, 1], or a list with one for each step; 0 would be DPM1, 1 is SDE-DPM-Solver++.
    """

    eta: Level

    def __post_init__(self) -> None:
        check_level("rho.eta", self.eta, most=1.0)

    def __call__(self, times: Tensor, k: Tensor) -> Tensor:
        kept = decay(times, k, times[0]).square()
        return torch.sqrt(1 - level_at(self.eta, k, len(times) - 1).square() * (1 - kept))


@dataclass(frozen=True)
class Exponential:
    """``e^{-eta h}``: the SDE solved exactly while x0_hat is frozen (Precise, arXiv:2605.23522).

    ``eta = 1`` is the first-order SDE-DPM-Solver++ (arXiv:2211.01095, as MixGRPO rolls out), ``a^2 / 2`` the
    exact counterpart of Flow-SDE at noise level a.

    Attributes:
        eta: > 0, or a list with one for each step.
        clamped: from t = 1, where h is infinite, keep ``t'^eta``; otherwise that step draws all noise anew.
    """

    eta: Level
    clamped: bool

    def __post_init__(self) -> None:
        check_level("rho.eta", self.eta)

    def __call__(self, times: Tensor, k: Tensor) -> Tensor:
        kept = decay(times, k, times[1] if self.clamped else times[0])
        return kept.pow(level_at(self.eta, k, len(times) - 1))


@dataclass(frozen=True)
class Churn:
    """``1 / (1 + gamma)``: FDFO's churn (arXiv:2603.12893).

    Attributes:
        gamma: > 0, or a list with one for each step.
    """

    gamma: Level

    def __post_init__(self) -> None:
        check_level("rho.gamma", self.gamma)

    def __call__(self, times: Tensor, k: Tensor) -> Tensor:
        return 1 / (1 + level_at(self.gamma, k, len(times) - 1))


@dataclass(frozen=True)
class Renoise:
    """0: ``x' ~ N((1 - t') x0_hat, t'^2)``, as few-step generators of DMD sample (arXiv:2405.14867)."""

    def __call__(self, times: Tensor, k: Tensor) -> Tensor:
        return torch.zeros(k.shape, dtype=times.dtype)
