"""The device that a block is computed on: the CPU, or the GPU of a worker that was given one.

That PyTorch sees a GPU says nothing: every process of a machine sees all of its GPUs, and a context in each of them
would fill a card before a voxel has been read.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import kernels
from .errors import ResourceError

CPU = torch.device("cpu")
_this = threading.local()


def current_device() -> torch.device:
    """The device of the block that this thread computes; the CPU outside of `computing_on`."""
    device: torch.device = getattr(_this, "device", CPU)
    return device


@contextmanager
def computing_on(kind: str) -> Iterator[torch.device]:
    """What this thread computes meanwhile is computed on "cpu" or on "cuda", the first GPU that the process sees.

    Raises ResourceError where a GPU is wanted and PyTorch sees none.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        raise ResourceError(
            "this worker was given a GPU and PyTorch sees none; install a build of PyTorch for the driver of this "
            "machine (https://pytorch.org/get-started/locally), or start the worker without the resource GPU"
        )
    if kind == "cuda":
        torch.backends.cudnn.deterministic = True  # the same bits from the same card
    before = current_device()
    _this.device = torch.device(kind)
    try:
        yield _this.device
    finally:
        _this.device = before


def halvings() -> int:
    """How often the pieces that a task works in are to be halved, since memory ran out on the block of this thread."""
    count: int = getattr(_this, "halvings", 0)
    return count


@contextmanager
def smaller_pieces(count: int) -> Iterator[None]:
    """What this thread computes meanwhile is computed in pieces that are halved so often along each axis."""
    before = halvings()
    _this.halvings = count
    try:
        yield
    finally:
        _this.halvings = before


def empty_cache() -> None:
    """Give back what PyTorch keeps of the card's memory without using it."""
    if current_device().type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def device_name(gpu: bool) -> str | None:
    """What computes: "CPU", or the model of the GPU and whether it has kernels; None where there is none to be seen."""
    if not gpu:
        return "CPU"
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name() + ("" if kernels.present() else " (without Triton)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the card or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def is_broken(error: BaseException) -> bool:
    """Whether an error means that this process can use its GPU no more: each further call would fail too."""
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _BROKEN)


_OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
_BROKEN = (
    "CUDA error:", "CUDA driver error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_INTERNAL_ERROR", "device-side assert", "NVML_SUCCESS == r",
)  # fmt: skip
