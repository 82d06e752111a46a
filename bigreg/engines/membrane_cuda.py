"""The linear system of a step on a GPU: conjugate gradients on the lattice, two kernels a turn, no wait for the host.

Sums over all points are left as one number a program; each program of the next kernel adds them up by itself, in the
same order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ..kernels import ceil_div, kernel

BLOCK, WARPS = 512, 4
SUMS = 256  # that are loaded at once, one of each program


@triton.jit
def _where(points, D, H, W, BLOCK: tl.constexpr):
    """Numbers of a program's points, which of them are there, and their indices (z, y, x)."""
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return p, p < points, p // (W * H), (p // W) % H, p % W


@triton.jit
def _block(matrix, p, points, inside, beyond):
    """The six numbers of a point's block, in the order of gauss_newton.PAIRS; a diagonal of `beyond` where none is."""
    return (
        tl.load(matrix + p, mask=inside, other=beyond),
        tl.load(matrix + points + p, mask=inside, other=beyond),
        tl.load(matrix + 2 * points + p, mask=inside, other=beyond),
        tl.load(matrix + 3 * points + p, mask=inside, other=0.0),
        tl.load(matrix + 4 * points + p, mask=inside, other=0.0),
        tl.load(matrix + 5 * points + p, mask=inside, other=0.0),
    )


@triton.jit
def _edges(z, y, x, D, H, W, e_z, e_y, e_x):
    """The membrane's own diagonal: each point's edges."""
    n_z = (z > 0).to(tl.float32) + (z < D - 1).to(tl.float32)
    n_y = (y > 0).to(tl.float32) + (y < H - 1).to(tl.float32)
    n_x = (x > 0).to(tl.float32) + (x < W - 1).to(tl.float32)
    return e_z * n_z + e_y * n_y + e_x * n_x


@triton.jit
def _total(sums, programs, SUMS: tl.constexpr):
    """The sum over the programs of a kernel before."""
    total = tl.zeros([SUMS], tl.float64)
    for start in range(0, programs, SUMS):
        i = start + tl.arange(0, SUMS)
        total += tl.load(sums + i, mask=i < programs, other=0.0)
    return tl.sum(total)


@triton.jit
def _start(
    a, b, c, d, e, f, p, inside, right, inverse, pushed, ahead, x_out, rest, sums, points, BLOCK: tl.constexpr
):  # fmt: skip
    """Of a point's own block a .. f its inverse; x = 0, rest = right, pushed = inverse rest; sums of rest * pushed."""
    size = tl.maximum(tl.maximum(a, b), c)  # a determinant is its cube, which may be beyond float32
    a, b, c, d, e, f = a / size, b / size, c / size, d / size, e / size, f / size
    c00, c01, c02 = b * c - f * f, e * f - d * c, d * f - e * b
    c11, c12, c22 = a * c - e * e, d * e - a * f, a * b - d * d
    per = 1.0 / ((a * c00 + d * c01 + e * c02) * size)
    i00, i11, i22, i01, i02, i12 = c00 * per, c11 * per, c22 * per, c01 * per, c02 * per, c12 * per
    r_z = tl.load(right + p, mask=inside, other=0.0)
    r_y = tl.load(right + points + p, mask=inside, other=0.0)
    r_x = tl.load(right + 2 * points + p, mask=inside, other=0.0)
    q_z, q_y, q_x = (
        i00 * r_z + i01 * r_y + i02 * r_x,
        i01 * r_z + i11 * r_y + i12 * r_x,
        i02 * r_z + i12 * r_y + i22 * r_x,
    )
    tl.store(inverse + p, i00, mask=inside)
    tl.store(inverse + points + p, i11, mask=inside)
    tl.store(inverse + 2 * points + p, i22, mask=inside)
    tl.store(inverse + 3 * points + p, i01, mask=inside)
    tl.store(inverse + 4 * points + p, i02, mask=inside)
    tl.store(inverse + 5 * points + p, i12, mask=inside)
    _store3(pushed, p, points, q_z, q_y, q_x, inside)
    _store3(rest, p, points, r_z, r_y, r_x, inside)
    zero = tl.zeros([BLOCK], tl.float32)
    _store3(x_out, p, points, zero, zero, zero, inside)
    _store3(ahead, p, points, zero, zero, zero, inside)
    tl.store(sums + tl.program_id(0), tl.sum((r_z * q_z + r_y * q_y + r_x * q_x).to(tl.float64)))


@kernel
def _begin(matrix, edges, right, inverse, pushed, ahead, x_out, rest, sums, points, D, H, W, BLOCK: tl.constexpr):
    """See _start; the block is that of matrix + membrane."""
    p, inside, z, y, x = _where(points, D, H, W, BLOCK)
    a, b, c, d, e, f = _block(matrix, p, points, inside, 1.0)
    a += _edges(z, y, x, D, H, W, tl.load(edges), tl.load(edges + 1), tl.load(edges + 2))
    b += _edges(z, y, x, D, H, W, tl.load(edges + 3), tl.load(edges + 4), tl.load(edges + 5))
    c += _edges(z, y, x, D, H, W, tl.load(edges + 6), tl.load(edges + 7), tl.load(edges + 8))
    _start(a, b, c, d, e, f, p, inside, right, inverse, pushed, ahead, x_out, rest, sums, points, BLOCK)


@triton.jit
def _store3(out, p, points, z, y, x, inside):
    tl.store(out + p, z, mask=inside)
    tl.store(out + points + p, y, mask=inside)
    tl.store(out + 2 * points + p, x, mask=inside)


@triton.jit
def _direction(pushed, behind, beta, at, inside):
    """pushed + beta * the direction before."""
    return tl.load(pushed + at, mask=inside, other=0.0) + beta * tl.load(behind + at, mask=inside, other=0.0)


@triton.jit
def _bent(pushed, behind, beta, p, inside, here, z, y, x, D, H, W, e_z, e_y, e_x):
    """The membrane's pull on one component, of the directions of the six points around."""
    out = tl.where(z > 0, e_z * (here - _direction(pushed, behind, beta, p - H * W, inside & (z > 0))), 0.0)
    out += tl.where(z < D - 1, e_z * (here - _direction(pushed, behind, beta, p + H * W, inside & (z < D - 1))), 0.0)
    out += tl.where(y > 0, e_y * (here - _direction(pushed, behind, beta, p - W, inside & (y > 0))), 0.0)
    out += tl.where(y < H - 1, e_y * (here - _direction(pushed, behind, beta, p + W, inside & (y < H - 1))), 0.0)
    out += tl.where(x > 0, e_x * (here - _direction(pushed, behind, beta, p - 1, inside & (x > 0))), 0.0)
    out += tl.where(x < W - 1, e_x * (here - _direction(pushed, behind, beta, p + 1, inside & (x < W - 1))), 0.0)
    return out


@kernel
def _product(
    matrix, edges, pushed, behind, ahead, product, now, before, sums, points, D, H, W, programs,
    BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """ahead = pushed + now / before * behind; product = (matrix + membrane) ahead; sums of ahead * product.

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
    m_z += _bent(
        pushed, behind, beta, p, inside, g_z, z, y, x, D, H, W,
        tl.load(edges), tl.load(edges + 1), tl.load(edges + 2),
    )  # fmt: skip
    m_y += _bent(
        pushed + points, behind + points, beta, p, inside, g_y, z, y, x, D, H, W,
        tl.load(edges + 3), tl.load(edges + 4), tl.load(edges + 5),
    )  # fmt: skip
    m_x += _bent(
        pushed + 2 * points, behind + 2 * points, beta, p, inside, g_x, z, y, x, D, H, W,
        tl.load(edges + 6), tl.load(edges + 7), tl.load(edges + 8),
    )  # fmt: skip
    _store3(ahead, p, points, g_z, g_y, g_x, inside)
    _store3(product, p, points, m_z, m_y, m_x, inside)
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(inside, g_z * m_z + g_y * m_y + g_x * m_x, 0.0).to(tl.float64)))


@kernel
def _update(
    inverse, ahead, product, x_out, rest, pushed, now, curved, sums, points, D, H, W, programs,
    BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """step = now / curved; x += step ahead; rest -= step product; pushed = inverse rest; sums of rest * pushed."""
    p, inside, _, _, _ = _where(points, D, H, W, BLOCK)
    length = _total(curved, programs, SUMS)  # not above 0: what is left is below float32
    step = tl.where(length > 0, _total(now, programs, SUMS) / tl.maximum(length, 1e-300), 0.0).to(tl.float32)
    for k in tl.static_range(3):
        at = k * points + p
        value = tl.load(x_out + at, mask=inside, other=0.0) + step * tl.load(ahead + at, mask=inside, other=0.0)
        tl.store(x_out + at, value, mask=inside)
    r_z = tl.load(rest + p, mask=inside, other=0.0) - step * tl.load(product + p, mask=inside, other=0.0)
    r_y = tl.load(rest + points + p, mask=inside, other=0.0) - step * tl.load(
        product + points + p, mask=inside, other=0.0
    )
    r_x = tl.load(rest + 2 * points + p, mask=inside, other=0.0) - step * tl.load(
        product + 2 * points + p, mask=inside, other=0.0
    )
    i00, i11, i22, i01, i02, i12 = _block(inverse, p, points, inside, 0.0)
    q_z, q_y, q_x = (
        i00 * r_z + i01 * r_y + i02 * r_x,
        i01 * r_z + i11 * r_y + i12 * r_x,
        i02 * r_z + i12 * r_y + i22 * r_x,
    )
    _store3(rest, p, points, r_z, r_y, r_x, inside)
    _store3(pushed, p, points, q_z, q_y, q_x, inside)
    tl.store(sums + tl.program_id(0), tl.sum((r_z * q_z + r_y * q_y + r_x * q_x).to(tl.float64)))


def turned(
    begin: Any, product: Any, matrix: torch.Tensor, own: torch.Tensor, weights: torch.Tensor, right: torch.Tensor,
    turns: int, warps: int = WARPS,
) -> torch.Tensor:  # fmt: skip
    """x of (matrix + a regulariser) x = right: so many turns of conjugate gradients; float32 on one device.

    begin     the kernel that starts, which is given matrix and `own`
    product   the kernel that multiplies, which is given matrix and `weights`; warps: of each of its programs
    """
    matrix, own, weights, right = (t.contiguous() for t in (matrix, own, weights, right))
    shape = tuple(right.shape[1:])
    points = right[0].numel()
    programs = ceil_div(points, BLOCK)
    inverse = torch.empty_like(matrix)
    x, rest, pushed, multiplied, behind, ahead = (torch.empty_like(right) for _ in range(6))
    # Rows of whole multiples of 16 bytes: kernels are compiled for where an array may begin.
    before, now, after, curved = torch.zeros(4, 2 * ceil_div(programs, 2), dtype=torch.float64, device=right.device)
    grid = (programs,)
    begin[grid](matrix, own, right, inverse, pushed, behind, x, rest, now, points, *shape, BLOCK=BLOCK, num_warps=WARPS)
    for _ in range(turns):
        product[grid](
            matrix, weights, pushed, behind, ahead, multiplied, now, before, curved, points, *shape, programs,
            BLOCK=BLOCK, SUMS=SUMS, num_warps=warps,
        )  # fmt: skip
        _update[grid](
            inverse, ahead, multiplied, x, rest, pushed, now, curved, after, points, *shape, programs,
            BLOCK=BLOCK, SUMS=SUMS, num_warps=WARPS,
        )  # fmt: skip
        behind, ahead = ahead, behind
        before, now, after = now, after, before
    return x


def solve(matrix: torch.Tensor, weights: torch.Tensor, right: torch.Tensor, turns: int) -> torch.Tensor:
    """See `membrane.solve`; float32 on one device."""
    return turned(_begin, _product, matrix, weights, weights, right, turns)
