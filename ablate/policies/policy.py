"""The policy every backbone gets: roles, guidance per role, snapshots, forwards counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ablate.policies.roles import RoleWeights, Tuning, iterate, restore
from ablate.types import Cond, PhaseName, Role, Velocity


class Backbone(Protocol):
    """What one model family must bring: this is the file a new policy adds."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Latent shape ``*D``."""

    @property
    def network(self) -> nn.Module:
        """The velocity, called as ``network(x_t, t, *cond.values())``; its weights are what is tuned."""

    @property
    def lora_targets(self) -> Sequence[str]:
        """Names of the layers LoRA adapts."""

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Conditioning, batch first; "" is the null prompt of classifier-free guidance."""

    def decode(self, x0: Tensor) -> Tensor:
        """Samples as the reward wants them; images are [n,C,H,W] in [0,1]."""

    def to(self, device: torch.device) -> Backbone: ...


@runtime_checkable
class Prepares(Protocol):
    """A backbone whose prompts are costly to encode: it is told all of a run's before the first rollout."""

    def prepare(self, prompts: Sequence[str], folder: Path) -> None:
        """Encode what ``folder`` does not hold yet."""


class RolePolicy:
    """A backbone, one set of weights per role, and guidance as a property of the role.

    Args:
        tuning: which of ``tunings`` gives the roles their weights.
        guidance: classifier-free guidance scale by role, 1 where none is given: ``v_0 + g (v_c - v_0)``.
        snapshots: the roles besides theta and ref.

    Raises:
        ValueError: ``tuning`` or a role in ``guidance`` is unknown.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        tuning: str,
        tunings: Mapping[str, Tuning],
        guidance: Mapping[Role, float],
        snapshots: Sequence[Role],
        device: torch.device,
    ) -> None:
        roles = {"theta", "ref", *snapshots}
        unknown = sorted(set(guidance) - roles)
        if unknown:
            raise ValueError(
                f"policy.guidance names {unknown}, which are no roles; roles here: {sorted(roles)}"
            )
        if tuning not in tunings:
            raise ValueError(f"policy.tuning = {tuning} is none of policy.tunings: {sorted(tunings)}")
        self._backbone = backbone.to(device)
        self._weights: RoleWeights = tunings[tuning](self._backbone.network, backbone.lora_targets, snapshots)
        self._trained = ("theta", *snapshots)
        self._guidance, self._device = dict(guidance), device
        self._null: Cond | None = None
        self._forwards = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._backbone.shape

    @property
    def forwards(self) -> int:
        return self._forwards

    def prepare(self, prompts: Sequence[str], folder: Path) -> None:
        """Have all prompts of a run encoded, and the null prompt; nothing where encoding costs nothing."""
        if isinstance(self._backbone, Prepares):
            self._backbone.prepare(["", *prompts], folder)

    def encode(self, prompts: Sequence[str]) -> Cond:
        with torch.no_grad():
            return {name: value.to(self._device) for name, value in self._backbone.encode(prompts).items()}

    def decode(self, x0: Tensor) -> Tensor:
        with torch.no_grad():
            return self._backbone.decode(x0)

    def guidance(self, role: Role) -> float:
        return self._guidance.get(role, 1.0)

    def velocity(self, role: Role) -> Velocity:
        """The role's velocity field, guidance applied; gradients flow through theta alone."""
        scale = self.guidance(role)

        def field(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
            with torch.set_grad_enabled(torch.is_grad_enabled() and role == "theta"):
                if scale == 1.0:
                    return self._run(role, x_t, t, cond)
                both = {
                    name: torch.cat([value, self._null_like(name, value)]) for name, value in cond.items()
                }
                v = self._run(role, torch.cat([x_t, x_t]), torch.cat([t, t]), both)
                conditional, unconditional = v.chunk(2)
                return unconditional + scale * (conditional - unconditional)

        return field

    def _run(self, role: Role, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self._forwards += len(x_t)
        return self._weights.run(role, x_t, t, *cond.values())

    def _null_like(self, name: str, value: Tensor) -> Tensor:
        if self._null is None:
            self._null = self.encode([""])
        return self._null[name].expand_as(value)

    def parameters(self) -> Sequence[nn.Parameter]:
        return [p for p in self._weights.tensors("theta").values() if isinstance(p, nn.Parameter)]

    def blend(self, role: Role, source: Role, decay: float) -> None:
        origin = self._weights.tensors(source)
        with torch.no_grad():
            for name, tensor in self._weights.tensors(role).items():
                if decay == 0:
                    tensor.copy_(origin[name])  # exact, where lerp may round
                else:
                    tensor.lerp_(origin[name], 1 - decay)

    def phase(self, name: PhaseName) -> AbstractContextManager[None]:
        """Nothing to move: a backbone's text encoders are gone by now. Its dtype is its network's own affair,
        so that rollout and update cannot differ in it; offloading would belong here."""
        del name
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in iterate(self._weights, self._trained)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        restore(self._weights, self._trained, state)
