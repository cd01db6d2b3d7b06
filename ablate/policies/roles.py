"""One set of weights per role: full copies of a network, or LoRA adapters on one frozen base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ablate.types import Role

if TYPE_CHECKING:  # peft takes seconds to import, so only runs that adapt import it
    from peft import LoraConfig


class RoleWeights(Protocol):
    """Theta is trainable, the snapshots follow it, ref is the base and never moves."""

    def run(self, role: Role, *inputs: Tensor) -> Tensor:
        """The network's output under a role's weights."""

    def tensors(self, role: Role) -> Mapping[str, Tensor]:
        """What differs between roles, by name; the same names for each. Ref has none of its own."""


class Tuning(Protocol):
    """How roles get their weights."""

    def __call__(
        self, network: nn.Module, targets: Sequence[str], snapshots: Sequence[Role]
    ) -> RoleWeights: ...


class FullCopies:
    """Every role has a whole copy of the network; right for networks of a few million parameters."""

    def __init__(self, network: nn.Module, snapshots: Sequence[Role]) -> None:
        frozen = network.eval().requires_grad_(False)
        self._networks = {role: deepcopy(frozen) for role in ("theta", *snapshots)} | {"ref": frozen}
        self._networks["theta"].requires_grad_(True)

    def run(self, role: Role, *inputs: Tensor) -> Tensor:
        output: Tensor = self._networks[role](*inputs)
        return output

    def tensors(self, role: Role) -> Mapping[str, Tensor]:
        return dict(self._networks[role].named_parameters()) if role != "ref" else {}


class Adapters:
    """One LoRA adapter per role on a frozen base; ref is the base with adapters off (arXiv:2106.09685)."""

    def __init__(self, network: nn.Module, snapshots: Sequence[Role], config: LoraConfig) -> None:
        from peft import get_peft_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        model = get_peft_model(network.eval(), config, adapter_name="theta")
        for role in snapshots:
            model.add_adapter(role, config)
        self._model, self._layers = model, [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
        self._tensors = {role: self._named(role) for role in ("theta", *snapshots)}
        with torch.no_grad():
            for role in snapshots:  # peft draws each adapter anew; a snapshot begins as theta
                for name, tensor in self._tensors[role].items():
                    tensor.copy_(self._tensors["theta"][name])
        self._activate("theta")

    def _named(self, role: Role) -> dict[str, Tensor]:
        end = f".{role}.weight"  # and not any ".role.": a role may be named like a layer
        tensors = self._model.named_parameters()
        return {name.removesuffix(end): p for name, p in tensors if name.endswith(end) and ".lora_" in name}

    def _activate(self, role: Role) -> None:
        for layer in self._layers:
            layer.set_adapter(role, inference_mode=True)
        for tensor in self._tensors["theta"].values():
            # set_adapter took theta's gradients away; always give them back
            tensor.requires_grad_(True)

    def run(self, role: Role, *inputs: Tensor) -> Tensor:
        network: Callable[..., Tensor] = self._model.get_base_model()
        if role == "ref":
            with self._model.disable_adapter():
                output = network(*inputs)
        else:
            self._activate(role)
            output = network(*inputs)
        self._activate("theta")
        return output

    def tensors(self, role: Role) -> Mapping[str, Tensor]:
        return self._tensors[role] if role != "ref" else {}


@dataclass(frozen=True)
class Full:
    """Tune every weight."""

    def __call__(self, network: nn.Module, targets: Sequence[str], snapshots: Sequence[Role]) -> RoleWeights:
        del targets
        return FullCopies(network, snapshots)


@dataclass(frozen=True)
class Lora:
    """Tune low-rank adapters.

    Raises:
        ValueError: ``rank`` or ``alpha`` is not positive.
    """

    rank: int
    alpha: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"lora rank = {self.rank} and alpha = {self.alpha} must be positive")

    def __call__(self, network: nn.Module, targets: Sequence[str], snapshots: Sequence[Role]) -> RoleWeights:
        from peft import LoraConfig

        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=list(targets), init_lora_weights="gaussian"
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return Adapters(network, snapshots, config)


def iterate(weights: RoleWeights, roles: Sequence[Role]) -> Iterator[tuple[str, Tensor]]:
    """All weights of the roles, named "role/name"."""
    for role in roles:
        for name, tensor in weights.tensors(role).items():
            yield f"{role}/{name}", tensor


def restore(weights: RoleWeights, roles: Sequence[Role], state: Mapping[str, Any]) -> None:
    """Copy saved weights back.

    Raises:
        ValueError: the names differ, i.e. the checkpoint is another run's.
    """
    tensors = dict(iterate(weights, roles))
    if tensors.keys() != state.keys():
        odd = sorted(tensors.keys() ^ state.keys())[0]
        raise ValueError(
            f"the checkpoint's weights are not this run's (first difference: {odd}); remove the run directory"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(state[name])
