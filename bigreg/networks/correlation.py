"""What networks see of two images before they learn anything: local contrast, and correlation with near neighbours.

All of it looks at the surroundings of a voxel alone, never at the patch as a whole.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F

NEIGHBOURS = 27


def local_contrast(image: torch.Tensor, radius: int, noise: float = 0.02) -> torch.Tensor:
    """Each voxel (N, C, z, y, x) less the mean of its window of (2 radius + 1)^3, over the window's SD and `noise`.

    What shading, gain and offset change is gone, and what is left is of size 1, which networks learn from many times
    faster than from 0 .. 1 with a small spread. Window sums are over all channels for the SD; border values repeated.
    """
    mean = _window_mean(image, radius)
    rest = image - mean
    spread = _window_mean(rest.square().mean(1, keepdim=True), radius)
    return rest * torch.rsqrt(spread + noise * noise)


def _window_mean(values: torch.Tensor, radius: int) -> torch.Tensor:
    for axis in range(3):
        pad, size = [0] * 6, [1] * 3
        pad[4 - 2 * axis : 6 - 2 * axis], size[axis] = [radius, radius], 2 * radius + 1
        values = F.avg_pool3d(F.pad(values, pad, mode="replicate"), size, stride=1)
    return values


def local_correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(N, 27, z, y, x) mean over the channels of a(x) b(x + s) for every s of -1 .. 1; border values repeated."""
    padded = F.pad(b, (1,) * 6, mode="replicate")
    z, y, x = a.shape[2:]
    shifted = (padded[:, :, i : i + z, j : j + y, k : k + x] for i, j, k in product(range(3), repeat=3))
    return torch.stack([(a * s).mean(1) for s in shifted], 1)


def correlations(fixed: torch.Tensor, moving: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """Correlations (N, 27, ...) of two images (N, 1, z, y, x), at a half, a quarter, .. of their resolution."""
    found = []
    for _ in range(levels):
        fixed, moving = F.avg_pool3d(fixed, 2), F.avg_pool3d(moving, 2)
        products = local_correlation(local_contrast(fixed, 2), local_contrast(moving, 2))
        found.append(2.0 * _window_mean(products, 2))  # 2: about as large as what else a layer sees
    return found
