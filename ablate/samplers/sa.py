"""SA-Solver: a stochastic Adams predictor and corrector, one network call per step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ablate.key import Draws
from ablate.samplers.gaussian import times_at
from ablate.samplers.grids import Grid
from ablate.types import Cond, Step, Velocity


class Last(NamedTuple):
    """Of the step before: its corrected state without slope, the factor of a slope, its clean estimate."""

    flat: Tensor
    gain: Tensor
    x0_hat: Tensor
    log_snr: Tensor


@dataclass(frozen=True)
class SASolver:
    """``x' = (t'/t) e^{-nh} x + (1 - t')((1 - e^{-a}) m + (a h/2) slope) + t' sqrt(1 - e^{-2nh}) eps``.

    With m = x0_hat, h the gain in log((1 - t)/t), ``n = tau^2``, ``a = (1 + n) h``: SA-Solver of order 2 in
    PEC mode (arXiv:2309.05019), its second term in the few-step form of App. D, as AWM rolls out
    (arXiv:2509.25050). ``slope`` is that of m against the log-SNR: over the last two steps for the predictor,
    over this step for the corrector, which the next call applies with the same noise. The first step is of
    first order and not corrected; the last one returns x0_hat. No step has a density: its mean hangs on the
    steps before.

    Attributes:
        tau: noise of steps that end at a time in [low, high]; 0 elsewhere. 0.4 in AWM, 0 is an ODE solver.

    Raises:
        ValueError: ``num_steps < 1``, tau < 0, an empty range, or a grid that starts at t = 1.
    """

    num_steps: int
    grid: Grid
    tau: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.tau >= 0 or not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"sampler.tau = {self.tau} must be 0 or more, "
                f"and its range low = {self.low} < high = {self.high} in [0, 1]"
            )
        if not self.times()[0] < 1:
            raise ValueError(
                "sampler.grid starts at t = 1, where the log-SNR SASolver extrapolates in is infinite: "
                "choose ablate.samplers.grids.AWM or Sana"
            )

    def times(self) -> Tensor:
        return self.grid(self.num_steps)

    def step(
        self, velocity: Velocity, x: Tensor, k: int, cond: Cond, carry: Last | None, draws: Draws
    ) -> Step:
        times = self.times()
        t, t_next = times[k], times[k + 1]
        v = velocity(x, times_at(times, k, x), cond)
        m = x - t.to(x) * v
        if k == self.num_steps - 1:
            return Step(m, v, None, None)
        log_snr = torch.log((1 - t) / t)
        slope = torch.zeros_like(x)
        if carry is not None:
            slope = (m - carry.x0_hat) / (log_snr - carry.log_snr).to(x)
        corrected = carry.flat + carry.gain * slope if carry is not None and k > 1 else x
        h = torch.log((1 - t_next) / t_next) - log_snr
        noisy = self.tau**2 if self.low <= t_next <= self.high else 0.0
        flat = (t_next / t * torch.exp(-noisy * h)).to(x) * corrected
        flat = flat - ((1 - t_next) * torch.expm1(-(1 + noisy) * h)).to(x) * m
        if noisy:
            noise = draws.normal(*x.shape[1:])
            flat = flat + (t_next * torch.sqrt(-torch.expm1(-2 * noisy * h))).to(x) * noise
        gain = ((1 - t_next) * (1 + noisy) * h.square() / 2).to(x)
        return Step(flat + gain * slope, v, None, Last(flat, gain, m, log_snr))
