"""Maps of patches, batched and differentiable, on any device: displacements (N, 3, z, y, x) in voxels.

    warp(image, d)(x) = image(x + d(x))               beyond the border the border's value
    compose(a, b) = b + warp(a, b)                    the displacement of (id + a) o (id + b)
    exponential(v, n) = (id + v / 2^n)^(2^n) - id

They are those of bigreg.transforms.field, which knows neither batches nor gradients on its compiled path.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def warp(image: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """(N, C, z, y, x) image at x + displacement(x), trilinear; in float32 at least."""
    dtype = torch.promote_types(displacement.dtype, torch.float32)
    image, displacement = image.to(dtype), displacement.to(dtype)
    shape = image.shape[2:]
    parts = []
    for axis in (2, 1, 0):  # grid_sample wants (x, y, z) in [-1, 1] between the outer centres
        n = shape[axis]
        where = torch.arange(displacement.shape[2 + axis], dtype=dtype, device=image.device)
        where = where.reshape([-1 if a == axis else 1 for a in range(3)])
        parts.append((displacement[:, axis] + where) * (2.0 / max(n - 1, 1)) - 1.0)
    return F.grid_sample(image, torch.stack(parts, -1), "bilinear", "border", align_corners=True)


def compose(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """The displacement of (id + outer) after (id + inner)."""
    return inner + warp(outer, inner)


def exponential(velocity: torch.Tensor, squarings: int = 7) -> torch.Tensor:
    """exp(v) - id of a stationary velocity by scaling and squaring."""
    field = velocity * 0.5**squarings
    for _ in range(squarings):
        field = compose(field, field)
    return field


def finer(displacement: torch.Tensor) -> torch.Tensor:
    """The same map on the grid of twice the resolution, whose 2 x 2 x 2 voxels make one of this."""
    return 2.0 * F.interpolate(displacement, scale_factor=2, mode="trilinear", align_corners=False)
