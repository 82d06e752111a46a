"""Numpy arrays and torch tensors alike: metrics compute on tensors and answer in kind."""

from __future__ import annotations

import numpy as np
import torch

Array = np.ndarray | torch.Tensor


def as_tensor(array: Array) -> torch.Tensor:
    """A floating-point tensor that shares memory where it can."""
    if isinstance(array, torch.Tensor):
        return array if array.dtype in (torch.float32, torch.float64) else array.float()
    array = np.asarray(array)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def like(result: torch.Tensor, given: Array) -> Array:
    return result if isinstance(given, torch.Tensor) else result.numpy()


def as_pair(a: Array, b: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as float64 on the device of the first; sums over a volume need the digits."""
    a = as_tensor(a).double()
    b = as_tensor(b).double().to(a.device)
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    return a, b
