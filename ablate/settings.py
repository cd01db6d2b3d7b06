"""Sizes, optimiser, budget and evaluation, as typed values; each refuses what cannot work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ablate.types import Role


@dataclass(frozen=True)
class BatchSizes:
    """``prompts`` per iteration over all processes, each with ``group_size`` samples.

    Attributes:
        micro: samples per forward and backward.
        updates: optimizer steps per iteration, each on its share of the groups.
        rollout: samples drawn, decoded and scored at a time.
        draws: likelihood draws averaged before any ratio.
    """

    prompts: int
    group_size: int
    micro: int
    updates: int
    rollout: int
    draws: int

    def __post_init__(self) -> None:
        for name in ("prompts", "group_size", "micro", "updates", "rollout", "draws"):
            value: int = self.__dict__[name]
            if value < 1:
                raise ValueError(f"batch.{name} = {value} must be at least 1")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with a constant learning rate, and the norm gradients are clipped to.

    Raises:
        ValueError: ``lr`` or ``grad_clip`` is not positive, or a number is out of range.
    """

    lr: float
    weight_decay: float
    betas: Sequence[float]
    eps: float
    grad_clip: float

    def __post_init__(self) -> None:
        if not self.lr > 0 or not self.grad_clip > 0 or not self.eps > 0:
            raise ValueError(
                f"optimizer lr = {self.lr}, grad_clip = {self.grad_clip}, eps = {self.eps} must be positive"
            )
        if self.weight_decay < 0 or len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(
                f"optimizer weight_decay = {self.weight_decay}, betas = {self.betas} are out of range"
            )

    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            parameters,
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            weight_decay=self.weight_decay,
            foreach=True,
        )


@dataclass(frozen=True)
class Budget:
    """When to stop: the first limit reached.

    A repeated run has the same bits, unless ``gpu_hours`` stops it.
    """

    iterations: int | None
    samples: int | None
    gpu_hours: float | None

    def spent(self, iterations: int, samples: int, gpu_hours: float) -> float:
        """Share of the budget that is used; 1 or more means stop."""
        pairs = ((iterations, self.iterations), (samples, self.samples), (gpu_hours, self.gpu_hours))
        return max(used / limit for used, limit in pairs if limit is not None)


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation on fixed prompts and fixed noise, on its own clock.

    Attributes:
        every_iterations, every_gpu_hours: how often, whichever comes first; None is never. Always at start
            and end.
        samples_per_prompt: images per prompt.
        seed: names the noise, the same for all runs.
        role: whose weights.
        batch: samples at a time.
    """

    every_iterations: int | None
    every_gpu_hours: float | None
    samples_per_prompt: int
    seed: int
    role: Role
    batch: int

    def __post_init__(self) -> None:
        if self.samples_per_prompt < 1 or self.batch < 1:
            raise ValueError("evaluation.samples_per_prompt and evaluation.batch must be at least 1")
        for value in (self.every_iterations, self.every_gpu_hours):
            if value is not None and value <= 0:
                raise ValueError(f"evaluation interval = {value} must be positive, or null for never")

    def due(self, iteration: int, hours_before: float, hours_now: float) -> bool:
        """Whether the iteration just finished is one to evaluate after."""
        counted = self.every_iterations is not None and iteration % self.every_iterations == 0
        every = self.every_gpu_hours
        return counted or (every is not None and int(hours_now / every) > int(hours_before / every))
