"""Distance of velocities at the rate two SDEs with them part."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ablate.estimators.weights import mean_square
from ablate.types import Evaluation, Feedback, Role


@dataclass(frozen=True)
class PathKL:
    """``kl_coef mean (v - v_role)^2 / (2 s^2)``, ``s = noise_level sqrt(t / (1 - min(t, cap)))``.

    The KL per unit of time of two SDEs with Flow-SDE's diffusion s (arXiv:2505.05470) and these velocities
    for drifts: "ELBO" among the KL weights of AWM's code (arXiv:2509.25050), whose "Uniform" is ``Girsanov``.
    Below the cap the weight is ``(1 - t)/(2 noise_level^2 t)``, without bound toward t = 0.

    Attributes:
        kl_coef: factor, > 0.
        role: whom to stay near.
        noise_level: 0.7 as published.
        cap: in (0, 1); times above it are weighed with a finite diffusion; 0.99 as published.

    Raises:
        ValueError: a number is out of range.
    """

    kl_coef: float
    role: Role = "ref"
    noise_level: float = 0.7
    cap: float = 0.99

    def __post_init__(self) -> None:
        if not self.kl_coef > 0:
            raise ValueError(
                f"regularizer.kl_coef = {self.kl_coef} must be positive; for none: regularizer=none"
            )
        if not self.noise_level > 0:
            raise ValueError(f"regularizer.noise_level = {self.noise_level} must be positive; AWM uses 0.7")
        if not 0 < self.cap < 1:
            raise ValueError(f"regularizer.cap = {self.cap} must lie in (0, 1); AWM uses 0.99")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({f"v:{self.role}"})

    def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor:
        del fb
        t = ev.query.t  # [B], or [B,draws] where draws are averaged
        weight = (1 - t.clamp(max=self.cap)) / (2 * self.noise_level**2 * t)
        scale = weight.sqrt().view(*t.shape, *[1] * (ev.v.dim() - t.dim()))
        return self.kl_coef * mean_square(scale * ev.v, scale * ev.v_of[self.role])
