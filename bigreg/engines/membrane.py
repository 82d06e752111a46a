"""The linear system of a step: curvature of the images at each control point, and a membrane between them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..kernels import usable
from .gauss_newton import solve3

TURNS = 16  # of conjugate gradients; each carries a step one cell further into what has no texture


def membrane(c: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Gradient of 1/2 sum over lattice edges of weights[i, axis] (c_i a - c_i b)^2; free border. (3, z, y, x)."""
    out = torch.zeros_like(c)
    for axis in range(3):
        d = torch.diff(c, dim=axis + 1) * weights[:, axis].reshape(3, 1, 1, 1)
        out.narrow(axis + 1, 1, c.shape[axis + 1] - 1).add_(d)
        out.narrow(axis + 1, 0, c.shape[axis + 1] - 1).sub_(d)
    return out


def solve(matrix: torch.Tensor, weights: torch.Tensor, right: torch.Tensor, turns: int = TURNS) -> torch.Tensor:
    """x of (matrix + membrane) x = right, by conjugate gradients from zero with each point's own block as a start.

    matrix    (6, z, y, x) symmetric positive definite 3 x 3 blocks, in the order of gauss_newton.PAIRS
    weights   (3 components, 3 axes) stiffness of a lattice edge
    right     (3, z, y, x)

    Between any two turns the energy of the quadratic model falls, so that a few are as safe as many. No turn waits for
    the device.
    """
    if right.device.type == "cpu" and right.dtype == torch.float32:
        from .membrane_cpu import solve as sweeps

        out = torch.empty_like(right, memory_format=torch.contiguous_format)
        arrays = (t.contiguous().numpy() for t in (matrix, weights, right))
        sweeps(*arrays, turns, out.numpy())
        return out
    if usable(matrix, weights, right):
        from .membrane_cuda import solve as kernels

        return kernels(matrix, weights, right, turns)
    own = own_blocks(matrix, weights)
    return conjugate_gradients(matrix, own, lambda c: membrane(c, weights), right, turns)


def conjugate_gradients(
    matrix: torch.Tensor,
    own: torch.Tensor,
    pull: Callable[[torch.Tensor], torch.Tensor],
    right: torch.Tensor,
    turns: int,
) -> torch.Tensor:
    """x of (matrix + pull) x = right after so many turns from zero, by tensor operations; see `solve`.

    matrix    (6, z, y, x) symmetric positive definite 3 x 3 blocks, in the order of gauss_newton.PAIRS
    own       (6, z, y, x) the same with each point's own block of `pull`: the preconditioner
    pull      a symmetric positive semi-definite operator on (3, z, y, x)
    right     (3, z, y, x)
    """
    whole = _whole(matrix)
    inverse = inverses(own)
    x, rest, ahead = torch.zeros_like(right), right, torch.zeros_like(right)
    before: torch.Tensor | None = None
    for _ in range(turns):
        pushed = (inverse * rest).sum(1)
        now = (rest * pushed).sum(dtype=torch.float64)
        ahead = pushed if before is None else pushed + ahead * (now / before.clamp_min(1e-300)).to(right.dtype)
        product = (whole * ahead).sum(1) + pull(ahead)
        curved = (ahead * product).sum(dtype=torch.float64)
        step = torch.where(curved > 0, now / curved, 0.0).to(right.dtype)  # 0: what is left is below float32
        x, rest, before = x + step * ahead, rest - step * product, now
    return x


def own_blocks(matrix: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(6, z, y, x) each point's own block of matrix + membrane; see `solve`."""
    return torch.cat([matrix[:3] + _diagonal(matrix.shape[1:], weights), matrix[3:]])


def inverses(own: torch.Tensor) -> torch.Tensor:
    """(3, 3, z, y, x) of blocks (6, z, y, x) in the order of gauss_newton.PAIRS."""
    return torch.stack([solve3(own, unit) for unit in _units(own)], 1)


def _whole(matrix: torch.Tensor) -> torch.Tensor:
    """(3, 3, z, y, x) of blocks in the order of gauss_newton.PAIRS."""
    a, b, c, d, e, f = matrix
    return torch.stack([torch.stack(row) for row in ((a, d, e), (d, b, f), (e, f, c))])


def _units(like: torch.Tensor) -> torch.Tensor:
    """(3, 3, 1, 1, 1) the unit vectors."""
    return torch.eye(3, dtype=like.dtype, device=like.device).reshape(3, 3, 1, 1, 1)


def _diagonal(points: torch.Size, weights: torch.Tensor) -> torch.Tensor:
    """(3, z, y, x) the membrane's own diagonal: each point's edges."""
    total = weights.new_zeros(3, *points)
    for axis, n in enumerate(points):
        edges = torch.full((n,), 2.0, dtype=weights.dtype, device=weights.device)
        edges[0] -= 1
        edges[-1] -= 1
        shape = [n if a == axis else 1 for a in range(3)]
        total = total + weights[:, axis].reshape(3, 1, 1, 1) * edges.reshape(1, *shape)
    return total
