"""Bounded control points to a displacement that is invertible whatever the network says."""

from __future__ import annotations

import torch

from ..transforms.bspline import contraction_bound

BOUND = 0.99 * contraction_bound((1, 1, 1))
"""Voxels: below this largest control point, one a voxel, id + displacement is a contraction away from the identity."""


def bounded(raw: torch.Tensor) -> torch.Tensor:
    """Any numbers (N, 3, z, y, x) to a displacement in voxels of at most BOUND, a uniform cubic B-spline.

    A control point stands on each voxel (no prefilter; replicated beyond the border), so the spline at the voxels is
    the control points smoothed by (1, 4, 1) / 6 along each axis: a convex combination, which keeps the bound.
    """
    out = BOUND * torch.tanh(raw.to(torch.promote_types(raw.dtype, torch.float32)))
    for axis in (2, 3, 4):
        n = out.shape[axis]
        before = torch.cat([out.narrow(axis, 0, 1), out.narrow(axis, 0, n - 1)], axis)
        after = torch.cat([out.narrow(axis, 1, n - 1), out.narrow(axis, n - 1, 1)], axis)
        out = out * (2.0 / 3.0) + (before + after) * (1.0 / 6.0)
    return out
