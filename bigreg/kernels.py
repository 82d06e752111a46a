"""When the fused kernels of a GPU are used: where Triton works, which PyTorch's build for CUDA brings; else tensors do.

A module `*_cuda` holds kernels, as `*_cpu` holds the CPU's sweeps: the same formulas, sums in a fixed order (no
atomics), so the same bits from the same card. They run on a CPU too, slowly, where TRITON_INTERPRET=1 was set before
Triton was imported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from inspect import Parameter, signature
from typing import Any

import torch

log = logging.getLogger(__name__)


@cache
def present() -> bool:
    """Whether Triton is installed and works on the GPU of this process; the reason is logged where it does not."""
    if find_spec("triton") is None:
        return False
    try:
        from .trial_cuda import trial

        trial()
    except Exception as error:
        log.warning(
            "Triton does not work here; slower tensor operations replace the fused kernels: %s: %s",
            type(error).__name__, error,
        )  # fmt: skip
        return False
    return True


def usable(*tensors: torch.Tensor) -> bool:
    """Whether kernels compute what is made of these: float32 on a GPU, and Triton works there."""
    return all(t.device.type == "cuda" and t.dtype == torch.float32 for t in tensors) and present()


def kernel(function: Callable[..., Any]) -> Any:
    """A kernel, compiled once for a card whatever the sizes that it is given.

    Triton would compile it anew for sizes that are 1 or multiples of 16: seconds for each patch of another shape.
    """
    import triton

    arguments = signature(function, eval_str=True).parameters
    sizes = [name for name, a in arguments.items() if name in SIZES and a.annotation is Parameter.empty]
    return triton.jit(function, do_not_specialize=sizes)


SIZES = frozenset({"C", "D", "H", "N", "S", "W", "n", "points", "programs", "tiles"})
"""What whole numbers are called in kernels: channels, voxels of an axis or of an array, samples, programs."""


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
