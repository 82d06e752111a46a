"""How smooth and how invertible maps are, (N, 3, z, y, x) displacements in voxels: one number an item, 0 is best."""

from __future__ import annotations

from itertools import combinations, product
from typing import cast

import torch

from ..networks.maps import compose


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).mean(1)


def diffusion(field: torch.Tensor) -> torch.Tensor:
    """Mean square of the gradient: summed over components and axes, (N,)."""
    return cast(torch.Tensor, sum(3.0 * _mean(field.diff(dim=axis).square()) for axis in (2, 3, 4)))


def strain(field: torch.Tensor, spacing: torch.Tensor) -> torch.Tensor:
    """`diffusion` of the displacement in um by the way in um, (N,); spacing (N, 3) um."""
    um = field * spacing[:, :, None, None, None]
    parts = [3.0 * _mean(um.diff(dim=axis + 2).square()) / spacing[:, axis].square() for axis in range(3)]
    return cast(torch.Tensor, sum(parts))


def bending(field: torch.Tensor) -> torch.Tensor:
    """Mean square of the second differences, mixed ones twice: summed over components, (N,)."""
    straight = sum(3.0 * _mean(field.diff(n=2, dim=axis).square()) for axis in (2, 3, 4))
    mixed = sum(3.0 * _mean(field.diff(dim=a).diff(dim=b).square()) for a, b in combinations((2, 3, 4), 2))
    return cast(torch.Tensor, straight + 2.0 * mixed)


def determinants(field: torch.Tensor) -> torch.Tensor:
    """Determinants of I + gradient by the eight one-sided stencils of each cell, (N, 8, z - 1, y - 1, x - 1)."""
    edges = []
    for axis in range(3):
        unit = torch.zeros(3, 1, 1, 1, dtype=field.dtype, device=field.device)
        unit[axis] = 1.0
        edges.append(field.diff(dim=axis + 2) + unit)
    out = []
    for corner in product((0, 1), repeat=3):
        rows = []
        for axis, edge in enumerate(edges):
            for other in range(3):
                if other != axis:
                    edge = edge.narrow(other + 2, corner[other], field.shape[other + 2] - 1)
            rows.append(edge)
        out.append((rows[0] * torch.linalg.cross(rows[1], rows[2], dim=1)).sum(1))
    return torch.stack(out, dim=1)


def volume(field: torch.Tensor) -> torch.Tensor:
    """Non-diffeomorphic volume: mean over cells and stencils of what is negative of the determinant, (N,)."""
    return _mean((-determinants(field)).clamp_min(0.0))


def inverse_residual(fixed_to_moving: torch.Tensor, moving_to_fixed: torch.Tensor) -> torch.Tensor:
    """Mean squared length of what is left of going there and back, both ways, (N,) voxels^2."""
    there, back = _compositions(fixed_to_moving, moving_to_fixed)
    return 0.5 * (3.0 * _mean(there.square()) + 3.0 * _mean(back.square()))


def gradicon(fixed_to_moving: torch.Tensor, moving_to_fixed: torch.Tensor) -> torch.Tensor:
    """Mean squared gradient of what is left of going there and back (GradICON, Tian 2023), both ways, (N,)."""
    there, back = _compositions(fixed_to_moving, moving_to_fixed)
    return 0.5 * (diffusion(there) + diffusion(back))


def _compositions(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return compose(b, a), compose(a, b)
