"""The linear system of a step with the bending regulariser on a GPU: the membrane's kernels with another product."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..kernels import kernel
from .membrane_cuda import _block, _direction, _start, _store3, _total, _where, turned

WARPS = 8  # of a product: with fewer, what a thread holds of 25 points does not fit in its registers


@kernel
def _begin(matrix, own, right, inverse, pushed, ahead, x_out, rest, sums, points, D, H, W, BLOCK: tl.constexpr):
    """See membrane_cuda._start; the block is that of matrix + bending, whose own ones, `own`, are diagonal."""
    p, inside, _, _, _ = _where(points, D, H, W, BLOCK)
    a, b, c, d, e, f = _block(matrix, p, points, inside, 1.0)
    a += tl.load(own + p, mask=inside, other=0.0)
    b += tl.load(own + points + p, mask=inside, other=0.0)
    c += tl.load(own + 2 * points + p, mask=inside, other=0.0)
    _start(a, b, c, d, e, f, p, inside, right, inverse, pushed, ahead, x_out, rest, sums, points, BLOCK)


@triton.jit
def _apart(pushed, behind, beta, at, there, here):
    """What the direction at a point differs by from that here; 0 where there is no such point."""
    return tl.where(there, _direction(pushed, behind, beta, at, there) - here, 0.0)


@triton.jit
def _along(pushed, behind, beta, p, stride, inside, here, i, n, weight, across):
    """The pull of the second differences along an axis, and what first ones across others weigh on its neighbours."""
    far_before, far_after = inside & (i > 1), inside & (i < n - 2)
    before, after = inside & (i > 0), inside & (i < n - 1)
    bent = (before & after).to(tl.float32)
    near = 2 * weight * (far_before.to(tl.float32) + bent) + across
    out = -near * _apart(pushed, behind, beta, p - stride, before, here)
    near = 2 * weight * (far_after.to(tl.float32) + bent) + across
    out -= near * _apart(pushed, behind, beta, p + stride, after, here)
    out += weight * _apart(pushed, behind, beta, p - 2 * stride, far_before, here)
    out += weight * _apart(pushed, behind, beta, p + 2 * stride, far_after, here)
    return out


@triton.jit
def _diagonal(pushed, behind, beta, p, a, b, inside, here, i, n, j, m):
    """The sum of what the four neighbours differ by that lie along both of two axes; a and b are the axes' strides."""
    out = _apart(pushed, behind, beta, p - a - b, inside & (i > 0) & (j > 0), here)
    out += _apart(pushed, behind, beta, p - a + b, inside & (i > 0) & (j < m - 1), here)
    out += _apart(pushed, behind, beta, p + a - b, inside & (i < n - 1) & (j > 0), here)
    out += _apart(pushed, behind, beta, p + a + b, inside & (i < n - 1) & (j < m - 1), here)
    return out


@triton.jit
def _neighbours(i, n):
    """How many of a point's two neighbours along an axis there are."""
    return (i > 0).to(tl.float32) + (i < n - 1).to(tl.float32)


@triton.jit
def _bent(weights, pushed, behind, beta, p, inside, here, z, y, x, D, H, W):
    """The bending energy's pull on one component; weights (3 axes, 3 axes)."""
    zy, zx, yx = 2 * tl.load(weights + 1), 2 * tl.load(weights + 2), 2 * tl.load(weights + 5)
    n_z, n_y, n_x = _neighbours(z, D), _neighbours(y, H), _neighbours(x, W)
    out = _along(
        pushed, behind, beta, p, H * W, inside, here, z, D, tl.load(weights), zy * n_y + zx * n_x
    )  # fmt: skip
    out += _along(pushed, behind, beta, p, W, inside, here, y, H, tl.load(weights + 4), zy * n_z + yx * n_x)
    out += _along(pushed, behind, beta, p, 1, inside, here, x, W, tl.load(weights + 8), zx * n_z + yx * n_y)
    out += zy * _diagonal(pushed, behind, beta, p, H * W, W, inside, here, z, D, y, H)
    out += zx * _diagonal(pushed, behind, beta, p, H * W, 1, inside, here, z, D, x, W)
    out += yx * _diagonal(pushed, behind, beta, p, W, 1, inside, here, y, H, x, W)
    return out


@kernel
def _product(
    matrix, weights, pushed, behind, ahead, product, now, before, sums, points, D, H, W, programs,
    BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """ahead = pushed + now / before * behind; product = (matrix + bending) ahead; sums of ahead * product.

    Where before is 0, in the first turn, ahead is pushed alone.
    """
    p, inside, z, y, x = _where(points, D, H, W, BLOCK)
    last = _total(before, programs, SUMS)
    beta = tl.where(last > 0, _total(now, programs, SUMS) / tl.maximum(last, 1e-300), 0.0).to(tl.float32)
    g_z = _direction(pushed, behind, beta, p, inside)
    g_y = _direction(pushed + points, behind + points, beta, p, inside)
    g_x = _direction(pushed + 2 * points, behind + 2 * points, beta, p, inside)
    a, b, c, d, e, f = _block(matrix, p, points, inside, 0.0)
    m_z, m_y, m_x = a * g_z + d * g_y + e * g_x, d * g_z + b * g_y + f * g_x, e * g_z + f * g_y + c * g_x
    m_z += _bent(weights, pushed, behind, beta, p, inside, g_z, z, y, x, D, H, W)
    m_y += _bent(weights + 9, pushed + points, behind + points, beta, p, inside, g_y, z, y, x, D, H, W)
    m_x += _bent(weights + 18, pushed + 2 * points, behind + 2 * points, beta, p, inside, g_x, z, y, x, D, H, W)
    _store3(ahead, p, points, g_z, g_y, g_x, inside)
    _store3(product, p, points, m_z, m_y, m_x, inside)
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(inside, g_z * m_z + g_y * m_y + g_x * m_x, 0.0).to(tl.float64)))


def solve(
    matrix: torch.Tensor, own: torch.Tensor, weights: torch.Tensor, right: torch.Tensor, turns: int
) -> torch.Tensor:
    """x of (matrix + bending) x = right by so many turns of conjugate gradients; float32 on one device.

    matrix    (6, z, y, x) symmetric positive definite 3 x 3 blocks, in the order of gauss_newton.PAIRS
    own       (6, z, y, x) each point's own block of bending, which is diagonal
    weights   (3 components, 3 axes, 3 axes) of second differences
    right     (3, z, y, x)
    """
    return turned(_begin, _product, matrix, own, weights, right, turns, WARPS)
