"""Global normalised cross-correlation: one linear change of contrast for the whole patch."""

from __future__ import annotations

import math

import torch

from .forces import Forces


def ncc(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor) -> Forces:
    """n (1 - NCC) over the n masked voxels. Tensors (z, y, x). A constant image has NCC 0 and no forces."""
    n = float(mask.sum(dtype=torch.float64))
    zero = torch.zeros_like(fixed)
    if n == 0.0:
        return Forces(0.0, 0.0, zero, zero, zero, zero)
    f = (fixed - float((fixed * mask).sum(dtype=torch.float64)) / n) * mask
    m = (moving - float((moving * mask).sum(dtype=torch.float64)) / n) * mask
    ff, mm, fm = (float((a * b).sum(dtype=torch.float64)) for a, b in ((f, f), (m, m), (f, m)))
    if min(ff, mm) <= 1e-20 * n:
        return Forces(n, n, zero, zero, zero, zero)
    norm = math.sqrt(ff) * math.sqrt(mm)
    by_fixed = (f * (fm / ff) - m) * (n / norm)
    by_moving = (m * (fm / mm) - f) * (n / norm)
    return Forces(n * (1.0 - fm / norm), n, by_fixed, by_moving, mask * math.sqrt(n / ff), mask * math.sqrt(n / mm))
