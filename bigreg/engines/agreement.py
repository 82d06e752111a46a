"""Whether two images agree in detail: as far as they do not, a finest level follows noise and stain, not motion.

The detail is what lies between two smoothings of about 1.6 and 2.4 voxels (SD), as long as a cell of the lattice. Per
window both images are scaled to one strength and one sign, so that a contrast that differs does not count, and what a
shift of the window explains to first order (Lucas and Kanade, 1981) does not count either: that is motion still to be
found. With d the difference of the scaled details, M = sum of g g^T and r = sum of g d over a window, g the slope:

    agreement = 1 - (mean of d^2 - r.M^-1 r) / 2

which is the correlation of the window where nothing moves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..similarity.lncc import box_sum

FINE, COARSE = (1, 2), (2, 3)  # radii of the boxes that smooth one after another: variance (w^2 - 1) / 12 each
WINDOW = 16  # voxels: many times the three numbers of a shift, and hardly more than motion keeps together
INSIDE = 2  # voxels from the edge of the mask that hold no detail


def agreement(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor) -> float:
    """Agreement in detail of the channel that agrees best, -1 .. 1; 1 where there is no detail.

    fixed, moving   (C, z, y, x)
    mask            (z, y, x), above 0 where both have data
    """
    mask = (mask > 0).to(fixed)
    weights = [_smoothed(mask, radii).clamp_min(0.5) for radii in (FINE, COARSE)]
    deep = (box_sum(mask, INSIDE) > (2 * INSIDE + 1) ** 3 - 0.5).to(fixed)

    def detail(image: torch.Tensor) -> torch.Tensor:
        seen = image * mask
        return (_smoothed(seen, FINE) / weights[0] - _smoothed(seen, COARSE) / weights[1]) * deep

    return max(_agreement(detail(f), detail(m), deep) for f, m in zip(fixed, moving, strict=True))


def without_detail(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(C, z, y, x) images smoothed as finely as detail is; nothing enters where the mask (z, y, x) is 0."""
    mask = (mask > 0).to(images)
    weights = _smoothed(mask, FINE).clamp_min(1e-6)
    return torch.stack([_smoothed(image * mask, FINE) / weights for image in images])


def _smoothed(image: torch.Tensor, radii: tuple[int, ...]) -> torch.Tensor:
    for radius in radii:
        image = box_sum(image, radius)
    return image


def _agreement(f: torch.Tensor, m: torch.Tensor, deep: torch.Tensor) -> float:
    ff, mm, fm = _windows(f * f, m * m, f * m)
    energy = (ff * mm).sqrt()
    if not float(energy.sum()) > 0:
        return 1.0
    f, m = f * _spread(1 / ff.sqrt().clamp_min(1e-12), f), m * _spread(fm.sign() / mm.sqrt().clamp_min(1e-12), m)
    d, slopes = f - m, _slopes((f + m) / 2, deep)
    z, y, x = slopes
    dd, *r = _windows(d * d, *(g * d for g in slopes))
    zz, yy, xx, zy, zx, yx = _windows(z * z, y * y, x * x, z * y, z * x, y * x)
    right = torch.stack(r, -1)
    matrix = torch.stack([zz, zy, zx, zy, yy, yx, zx, yx, xx], -1).unflatten(-1, (3, 3))
    matrix = matrix + 1e-6 * torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    explained = (right * torch.linalg.solve(matrix, right)).sum(-1)
    return float(((1 - (dd - explained) / 2) * energy).sum() / energy.sum())


def _slopes(image: torch.Tensor, deep: torch.Tensor) -> list[torch.Tensor]:
    """Central differences along z, y, x; 0 along an axis of one voxel."""
    return [
        (torch.gradient(image, dim=axis)[0] if image.shape[axis] > 1 else torch.zeros_like(image)) * deep
        for axis in range(3)
    ]


def _windows(*images: torch.Tensor) -> list[torch.Tensor]:
    """Means over windows side by side, in double precision."""
    size = [min(WINDOW, n) for n in images[0].shape]
    return list(F.avg_pool3d(torch.stack(images)[:, None], size, size, ceil_mode=True)[:, 0].double())


def _spread(windows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Each window's value at all of its voxels."""
    for axis in range(3):
        windows = windows.repeat_interleave(min(WINDOW, like.shape[axis]), axis).narrow(axis, 0, like.shape[axis])
    return windows.to(like)
