"""One process of several that train together (torchrun), or the only one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError, ResourceError


@dataclass(frozen=True)
class Processes:
    """`rank` of `size` processes, each with its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def shared(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over all processes."""
        if self.size == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def chosen_device(wanted: str, local_rank: int) -> torch.device:
    """The device of a process. Raises ResourceError where cuda is wanted and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ResourceError("device is cuda and this machine has none that torch sees; use device: cpu or auto")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ResourceError(
            f"process {local_rank} of this machine has no GPU of its own ({torch.cuda.device_count()} there); "
            "start fewer processes (torchrun --nproc-per-node)"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def joined(wanted: str) -> Iterator[Processes]:
    """This process among those that torchrun started, if any: NCCL on GPUs, Gloo on CPUs."""
    try:
        rank, size, local = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    except ValueError as error:
        raise ConfigError(
            f"RANK, WORLD_SIZE and LOCAL_RANK are set by torchrun and must be numbers: {error}"
        ) from error
    device = chosen_device(wanted, local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield Processes(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=size)
    try:
        yield Processes(rank, size, device)
    finally:
        dist.destroy_process_group()
