"""Mean squared error: for images of one contrast and brightness."""

from __future__ import annotations

import torch

from .forces import Forces


def mse(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor) -> Forces:
    """Half the squared difference, summed over the mask. Tensors (z, y, x)."""
    residual = (fixed - moving) * mask
    one = torch.ones((), dtype=fixed.dtype, device=fixed.device)
    loss = 0.5 * float((residual * residual).sum(dtype=torch.float64))
    return Forces(loss, float(mask.sum(dtype=torch.float64)), residual, -residual, one * mask, one * mask)
