"""The inverse of id + u as a layer: a fixed point found by Anderson acceleration, with the exact implicit gradient.

The inverse displacement v solves v(x) = -u(x + v(x)). At a voxel the right side depends on v of that voxel alone, so
the implicit function theorem needs no second iteration: with J = grad u at x + v(x) and a cotangent g,

    w = (I + J^T)^-1 g        grad_u = -(sampling at x + v)^T w

is one 3 x 3 system a voxel. Only u and v are kept. After SITReg (arXiv 2303.10211), which iterates for w as well.
"""

from __future__ import annotations

from typing import cast

import torch
from torch.autograd.function import once_differentiable

from .maps import warp

MEMORY = 4
RIDGE = 1e-4


def invert(
    u: torch.Tensor, *, tolerance: float = 1e-2, iterations: int = 50, check_every: int | None = None
) -> torch.Tensor:
    """v (N, 3, z, y, x) with (id + u) o (id + v) = id, voxels; u must be a contraction.

    tolerance     stop where no voxel changes by more
    check_every   steps between two looks at that; a look makes a GPU wait, so 4 there and 1 on a CPU by default
    """
    if check_every is None:
        check_every = 1 if u.device.type == "cpu" else 4
    return _Inverse.apply(u, tolerance, iterations, check_every)


class _Inverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: torch.Tensor, tolerance: float, iterations: int, check_every: int) -> torch.Tensor:
        v = fixed_point(lambda v: -warp(u, v), -u, tolerance, iterations, check_every)
        ctx.save_for_backward(u, v)
        return v

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        u, v = ctx.saved_tensors
        with torch.enable_grad():
            u, v = u.detach().requires_grad_(), v.detach().requires_grad_()
            right = -warp(u, v)
        rows = []
        for i in range(3):
            one = torch.zeros_like(right)
            one[:, i] = 1
            rows.append(torch.autograd.grad(right, v, one, retain_graph=True)[0])
        # rows[i][:, j] = d right_i / d v_j at the same voxel; w solves w = rows^T w + g.
        matrix = [[float(i == j) - rows[i][:, j] for i in range(3)] for j in range(3)]
        w = solve3(matrix, [gradient[:, j] for j in range(3)])
        return torch.autograd.grad(right, u, w)[0], None, None, None


def solve3(m: list[list[torch.Tensor]], right: list[torch.Tensor]) -> torch.Tensor:
    """x of M x = r for 3 x 3 systems given element by element; (N, 3, z, y, x)."""

    def cross(a: list[torch.Tensor], b: list[torch.Tensor]) -> list[torch.Tensor]:
        return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]

    columns = [[m[i][j] for i in range(3)] for j in range(3)]
    normals = [cross(columns[(j + 1) % 3], columns[(j + 2) % 3]) for j in range(3)]

    def product(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        return cast(torch.Tensor, sum(x * y for x, y in zip(a, b, strict=True)))

    determinant = product(columns[0], normals[0])
    found = [product(right, normal) / determinant for normal in normals]
    return torch.stack(found, 1)


def fixed_point(step, start: torch.Tensor, tolerance: float, iterations: int, check_every: int) -> torch.Tensor:
    """x = step(x) by Anderson acceleration, each element of the batch by itself; `step` must be a contraction."""
    x, count = start, start.shape[0]
    points: list[torch.Tensor] = []
    residuals: list[torch.Tensor] = []
    new = step(x)
    for number in range(1, iterations + 1):
        residual = new - x
        if number % check_every == 0 and float(residual.abs().max()) < tolerance:
            break
        points, residuals = [*points[-MEMORY:], new], [*residuals[-MEMORY:], residual]
        if len(residuals) > 1:
            # The mix of the last residuals that is smallest; differences from the newest keep the weights' sum at 1.
            apart = torch.stack([(residual - r).reshape(count, -1) for r in residuals[:-1]], 1)
            normal = apart @ apart.mT
            right = apart @ residual.reshape(count, -1, 1)
            ridge = RIDGE * normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-20)
            normal = normal + ridge[:, None, None] * torch.eye(len(apart[0]), dtype=x.dtype, device=x.device)
            weights = torch.linalg.solve_ex(normal, right)[0]  # (N, m, 1); no check, which would make a GPU wait
            moves = torch.stack([(new - p).reshape(count, -1) for p in points[:-1]], 1)
            x = new - (weights * moves).sum(1).reshape(new.shape)
        else:
            x = new
        new = step(x)
    return new
