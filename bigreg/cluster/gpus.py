"""The GPUs of this machine, and what follows from their being there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .settings import Cluster

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""What is there on a machine with a GPU and a driver for it: NVIDIA's, the same in WSL, AMD's."""


def visible_gpus() -> list[str]:
    """The GPUs that PyTorch sees here, each by the value of CUDA_VISIBLE_DEVICES that shows it alone."""
    if "torch" not in sys.modules and not any(Path(place).exists() for place in _DRIVERS):
        return []  # PyTorch takes a second to import, and who has no GPU need not wait for it
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get(VISIBLE, "")
    return [name.strip() for name in given.split(",")][:count] if given else [str(number) for number in range(count)]


def smallest_card() -> int | None:
    """Bytes of the smallest GPU of this machine; None where PyTorch sees none."""
    import torch

    count = torch.cuda.device_count()
    return min((torch.cuda.get_device_properties(n).total_memory for n in range(count)), default=None)


def default_cluster() -> Cluster:
    """Who works where nobody says it: the GPUs of this machine, or its cores where it has none."""
    return Cluster(kind=default_kind())


def default_kind() -> str:
    """The kind of `default_cluster`."""
    return "cuda" if visible_gpus() else "local"
