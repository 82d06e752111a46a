"""Local correlation and its gradient on a GPU: window sums axis by axis, the arithmetic between them in the last pass.

    along z   n, f, m, ff, mm, fm of the images under the mask, summed over 2 radius + 1 planes
    along y   the six sums
    along x   the six sums; of them the coefficients A, B_f, B_m, C_f, C_m of `lncc` and the ratio of the variances
    along z, along y   the five coefficients
    along x   the five coefficients, and of them the forces and their scales

Each pass reads and writes each array once (the neighbours of a window are in the caches): some 250 bytes a voxel.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ..kernels import ceil_div, kernel

PLANE, PLANES = 1024, 16  # of a pass along z: voxels of a plane, and planes, of a program
TILE_Y, TILE_X = (
    (16, 64),
    (4, 64),
)  # (y, x) of a program of a pass along y; of one along x, which keeps more in registers
WARPS = 4


@kernel
def _products_along_z(fixed, moving, mask, out, D, N, n, PLANES: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr):
    """Window sums along z of mask, f, m, ff, mm, fm; N voxels a plane, n = D N."""
    n = tl.cast(n, tl.int64)  # six arrays of n may be more than an int32 counts
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N
    first = tl.program_id(1) * PLANES
    for z in range(first, tl.minimum(first + PLANES, D)):
        s_n = tl.zeros([BLOCK], tl.float32)
        s_f = tl.zeros([BLOCK], tl.float32)
        s_m = tl.zeros([BLOCK], tl.float32)
        s_ff = tl.zeros([BLOCK], tl.float32)
        s_mm = tl.zeros([BLOCK], tl.float32)
        s_fm = tl.zeros([BLOCK], tl.float32)
        for k in tl.static_range(2 * R + 1):
            there = inside & (z + k - R >= 0) & (z + k - R < D)
            place = (z + k - R) * N + at
            known = tl.load(mask + place, mask=there, other=0.0)
            f = tl.load(fixed + place, mask=there, other=0.0) * known
            m = tl.load(moving + place, mask=there, other=0.0) * known
            s_n += known
            s_f += f
            s_m += m
            s_ff += f * f
            s_mm += m * m
            s_fm += f * m
        place = z * N + at
        tl.store(out + place, s_n, mask=inside)
        tl.store(out + place + n, s_f, mask=inside)
        tl.store(out + place + 2 * n, s_m, mask=inside)
        tl.store(out + place + 3 * n, s_ff, mask=inside)
        tl.store(out + place + 4 * n, s_mm, mask=inside)
        tl.store(out + place + 5 * n, s_fm, mask=inside)


@kernel
def _along_z(values, out, D, N, n, PLANES: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr):
    """Window sums along z of the array that the program's third number says."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N
    first = tl.program_id(1) * PLANES
    base = tl.program_id(2).to(tl.int64) * n
    for z in range(first, tl.minimum(first + PLANES, D)):
        total = tl.zeros([BLOCK], tl.float32)
        for k in tl.static_range(2 * R + 1):
            there = inside & (z + k - R >= 0) & (z + k - R < D)
            total += tl.load(values + base + (z + k - R) * N + at, mask=there, other=0.0)
        tl.store(out + base + z * N + at, total, mask=inside)


@triton.jit
def _tile(H, W, tiles, TY: tl.constexpr, TX: tl.constexpr):
    y = (tl.program_id(0) // tiles) * TY + tl.arange(0, TY)[:, None]
    x = (tl.program_id(0) % tiles) * TX + tl.arange(0, TX)[None, :]
    return y, x, (y < H) & (x < W)


@kernel
def _along_y(values, out, H, W, n, tiles, TY: tl.constexpr, TX: tl.constexpr, R: tl.constexpr):
    y, x, inside = _tile(H, W, tiles, TY, TX)
    base = tl.program_id(2).to(tl.int64) * n + tl.program_id(1) * H * W
    total = tl.zeros([TY, TX], tl.float32)
    for k in tl.static_range(2 * R + 1):
        there = inside & (y + k - R >= 0) & (y + k - R < H)
        total += tl.load(values + base + (y + k - R) * W + x, mask=there, other=0.0)
    tl.store(out + base + y * W + x, total, mask=inside)


@triton.jit
def _row_sum(values, place, x, inside, W, TY: tl.constexpr, TX: tl.constexpr, R: tl.constexpr):
    total = tl.zeros([TY, TX], tl.float32)
    for k in tl.static_range(2 * R + 1):
        there = inside & (x + k - R >= 0) & (x + k - R < W)
        total += tl.load(values + place + (k - R), mask=there, other=0.0)
    return total


@kernel
def _coefficients(
    sums, mask, out, losses, H, W, n, floor, tiles,
    TY: tl.constexpr, TX: tl.constexpr, R: tl.constexpr, SQUARED: tl.constexpr,
):  # fmt: skip
    """The last sum of the six; A, B_f, B_m, C_m, C_f, (var_m / var_f)^(1/4); a program's sum of cc and of the mask."""
    n = tl.cast(n, tl.int64)  # six arrays of n may be more than an int32 counts
    y, x, inside = _tile(H, W, tiles, TY, TX)
    place = tl.program_id(1) * H * W + y * W + x
    share = 1.0 / tl.maximum(_row_sum(sums, place, x, inside, W, TY, TX, R), 1.0)
    mu_f = _row_sum(sums + n, place, x, inside, W, TY, TX, R) * share
    mu_m = _row_sum(sums + 2 * n, place, x, inside, W, TY, TX, R) * share
    var_f = tl.maximum(_row_sum(sums + 3 * n, place, x, inside, W, TY, TX, R) * share - mu_f * mu_f, 0.0) + floor
    var_m = tl.maximum(_row_sum(sums + 4 * n, place, x, inside, W, TY, TX, R) * share - mu_m * mu_m, 0.0) + floor
    cov = _row_sum(sums + 5 * n, place, x, inside, W, TY, TX, R) * share - mu_f * mu_m
    a = tl.rsqrt(var_f * var_m)
    cc = cov * a
    known = tl.load(mask + place, mask=inside, other=0.0)
    per = known * share
    alike = cc
    if SQUARED:
        alike = cc * cc
        per = per * 2.0 * cc
    a = a * per
    b_f = cc / var_f * per
    b_m = cc / var_m * per
    tl.store(out + place, a, mask=inside)
    tl.store(out + place + n, b_f, mask=inside)
    tl.store(out + place + 2 * n, b_m, mask=inside)
    tl.store(out + place + 3 * n, b_m * mu_m - a * mu_f, mask=inside)
    tl.store(out + place + 4 * n, b_f * mu_f - a * mu_m, mask=inside)
    tl.store(out + place + 5 * n, tl.sqrt(tl.sqrt(var_m / var_f)), mask=inside)
    program = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(losses + program, tl.sum(alike * known))
    tl.store(losses + program + 1, tl.sum(known))


@kernel
def _forces(
    fixed, moving, mask, sums, ratio, out, H, W, n, tiles,
    TY: tl.constexpr, TX: tl.constexpr, R: tl.constexpr, SQUARED: tl.constexpr,
):  # fmt: skip
    """The last sum of the five; d loss / d fixed, d loss / d moving and the scales of the curvature."""
    n = tl.cast(n, tl.int64)  # six arrays of n may be more than an int32 counts
    y, x, inside = _tile(H, W, tiles, TY, TX)
    place = tl.program_id(1) * H * W + y * W + x
    a = _row_sum(sums, place, x, inside, W, TY, TX, R)
    b_f = _row_sum(sums + n, place, x, inside, W, TY, TX, R)
    b_m = _row_sum(sums + 2 * n, place, x, inside, W, TY, TX, R)
    c_m = _row_sum(sums + 3 * n, place, x, inside, W, TY, TX, R)
    c_f = _row_sum(sums + 4 * n, place, x, inside, W, TY, TX, R)
    known = tl.load(mask + place, mask=inside, other=0.0)
    f = tl.load(fixed + place, mask=inside, other=0.0)
    m = tl.load(moving + place, mask=inside, other=0.0)
    r = tl.load(ratio + place, mask=inside, other=1.0)
    if SQUARED:
        root = tl.sqrt(tl.abs(a)) * known
        sign = tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, 0.0))
    else:
        root = tl.sqrt(tl.maximum(a, 0.0)) * known
        sign = 1.0
    tl.store(out + place, -(m * a - f * b_f + c_f) * known, mask=inside)
    tl.store(out + place + n, -(f * a - m * b_m + c_m) * known, mask=inside)
    tl.store(out + place + 2 * n, root * r, mask=inside)
    tl.store(out + place + 3 * n, root / r * sign, mask=inside)


def sweep(
    fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, radius: int, noise: float, squared: bool
) -> tuple[float, float, torch.Tensor]:
    """(sum of the correlation or its square, voxels, (4, z, y, x) by_fixed, by_moving and their scales).

    Tensors (z, y, x), float32. `radius` in voxels, `noise` in image units.
    """
    fixed, moving, mask = (t.contiguous() for t in (fixed, moving, mask))
    depth, height, width = fixed.shape
    n = fixed.numel()
    a, b = (torch.empty(6, *fixed.shape, dtype=torch.float32, device=fixed.device) for _ in range(2))
    planes = ceil_div(height * width, PLANE), ceil_div(depth, PLANES)
    (across_y, tiles_y), (across, tiles) = (
        (ceil_div(width, x), (ceil_div(height, y) * ceil_div(width, x), depth)) for y, x in (TILE_Y, TILE_X)
    )
    z: dict[str, Any] = {"PLANES": PLANES, "R": radius, "BLOCK": PLANE, "num_warps": WARPS}
    y, x = ({"TY": t[0], "TX": t[1], "R": radius, "num_warps": WARPS} for t in (TILE_Y, TILE_X))
    losses = torch.empty(tiles[0] * tiles[1], 2, dtype=torch.float32, device=fixed.device)
    _products_along_z[planes](fixed, moving, mask, a, depth, height * width, n, **z)
    _along_y[(*tiles_y, 6)](a, b, height, width, n, across_y, **y)
    _coefficients[tiles](b, mask, a, losses, height, width, n, noise * noise, across, SQUARED=squared, **x)
    _along_z[(*planes, 5)](a, b, depth, height * width, n, **z)
    ratio = a[5]
    _along_y[(*tiles_y, 5)](b, a, height, width, n, across_y, **y)
    _forces[tiles](fixed, moving, mask, a, ratio, b, height, width, n, across, SQUARED=squared, **x)
    total, weight = losses.sum(0, dtype=torch.float64).tolist()
    return total, weight, b[:4]
