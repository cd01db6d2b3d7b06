"""The processes of one run, through accelerate. Nothing else in the lab knows how many there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from ablate.contract.errors import IncompatibleRun


class Distributed:
    """Rank, device and the few collectives a run needs; several processes are started by torchrun."""

    def __init__(self, gpus: int) -> None:
        here = (
            int(os.environ.get("LOCAL_WORLD_SIZE", gpus)) if gpus else 0
        )  # one of several nodes has a share
        if here > torch.cuda.device_count():
            raise IncompatibleRun(
                f"resources.gpus = {gpus}, but this machine shows {torch.cuda.device_count()} GPUs; "
                "choose resources=cpu, or a machine that has them"
            )
        self._accelerator = Accelerator(cpu=gpus == 0)

    @property
    def rank(self) -> int:
        return int(self._accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        return torch.device(self._accelerator.device)

    @property
    def device_name(self) -> str:
        """As hours are labelled: hours of different names are never pooled."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    def synchronize(self) -> None:
        """Wait until the device has done what was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def gather(self, tensor: Tensor) -> Tensor:
        """[N, ...] of every process -> [M, ...], in the order of ranks."""
        gathered: Tensor = self._accelerator.gather(tensor)
        return gathered

    def gather_objects(self, items: Sequence[Any]) -> list[Any]:
        """Lists of every process, joined in the order of ranks."""
        return list(gather_object(list(items))) if self.world > 1 else list(items)

    def agree(self, value: Any) -> Any:
        """Rank 0's value, on every process."""
        return broadcast_object_list([value])[0] if self.world > 1 else value

    def total(self, value: float) -> float:
        """Sum of a number over processes."""
        return float(self.gather(torch.tensor([value], dtype=torch.float64, device=self.device)).sum())

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean of each number over processes; every process names the same ones."""
        return dict(zip(values, self._columns(values).mean(0).tolist(), strict=True))

    def largest(self, values: dict[str, float]) -> dict[str, float]:
        """Largest of each number over processes; every process names the same ones."""
        return dict(zip(values, self._columns(values).amax(0).tolist(), strict=True))

    def _columns(self, values: dict[str, float]) -> Tensor:
        row = torch.tensor([list(values.values())], dtype=torch.float64, device=self.device)
        return self.gather(row) if self.world > 1 else row

    def mean_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average gradients over processes, in one call per optimizer step."""
        if self.world == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat: Tensor = self._accelerator.reduce(torch.cat([g.flatten() for g in gradients]), reduction="mean")
        parts = torch.split(flat, [g.numel() for g in gradients])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def close(self) -> None:
        """Leave the process group, if there is one."""
        self._accelerator.end_training()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
