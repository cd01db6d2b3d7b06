"""DPM-Solver++ 2M: second-order multistep ODE solver, one network call per step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ablate.key import Draws
from ablate.samplers.gaussian import times_at
from ablate.samplers.grids import Grid
from ablate.types import Cond, Step, Velocity


class Previous(NamedTuple):
    """What the solver remembers: its last clean estimate and that estimate's log-SNR."""

    x0_hat: Tensor
    log_snr: Tensor


@dataclass(frozen=True)
class DPM2:
    """``x' = (t'/t) x - (1 - t')(e^{-h} - 1)(m + D1/2)``, m = x0_hat, in lambda = log((1 - t)/t).

    DPM-Solver++ (arXiv:2211.01095 Alg. 2) in the form DiffusionNFT (arXiv:2509.16117) and 2602.04663 roll out
    with: first order at the first and the last step. Deterministic: no step has a density.

    Raises:
        ValueError: ``num_steps < 1``.
    """

    num_steps: int
    grid: Grid

    def __post_init__(self) -> None:
        self.times()

    def times(self) -> Tensor:
        return self.grid(self.num_steps)

    def step(
        self, velocity: Velocity, x: Tensor, k: int, cond: Cond, carry: Previous | None, draws: Draws
    ) -> Step:
        del draws
        times = self.times()
        t, t_next = times[k], times[k + 1]
        v = velocity(x, times_at(times, k, x), cond)
        x0_hat, x1_hat = x - t.to(x) * v, x + (1 - t).to(x) * v
        log_snr = torch.log((1 - t) / t)
        if carry is None or k == self.num_steps - 1:
            x_next = (1 - t_next).to(x) * x0_hat + t_next.to(x) * x1_hat
        else:
            h = torch.log((1 - t_next) / t_next) - log_snr
            slope = h / (log_snr - carry.log_snr)  # 0 after a start at t = 1, where the log-SNR is -inf
            estimate = x0_hat + 0.5 * slope.to(x) * (x0_hat - carry.x0_hat)
            x_next = (t_next / t).to(x) * x - ((1 - t_next) * torch.expm1(-h)).to(x) * estimate
        return Step(x_next, v, None, Previous(x0_hat, log_snr))
