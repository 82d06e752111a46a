"""When the fused kernels of a GPU are used: Triton comes with PyTorch's build for CUDA, and else tensor operations do.

A module `*_cuda` holds kernels, as `*_cpu` holds the CPU's sweeps: the same formulas, sums in a fixed order (no
atomics), so the same bits from the same card. They run on a CPU too, slowly, where TRITON_INTERPRET=1 was set before
Triton was imported.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch


@cache
def present() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def usable(*tensors: torch.Tensor) -> bool:
    """Whether kernels compute what is made of these: float32 on a GPU, and Triton is there."""
    return all(t.device.type == "cuda" and t.dtype == torch.float32 for t in tensors) and present()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
