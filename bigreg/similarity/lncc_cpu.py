"""Local correlation and its gradient on a CPU core, in one sweep over the planes of the images.

The same formulas as `lncc`. Window sums are made row by row: over z from the planes themselves, then over y and x from
rows that stay in the first-level cache. The second sums follow `radius` planes behind the first, so that what lies
between them is a ring of planes instead of volumes.

Each loop has one result, and arrays are indexed, not sliced: with several results the compiler cannot tell that rows do
not overlap and works voxel by voxel, and a slice of a row costs as much as the row.
"""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})


@_jit
def _window_x(rows, radius, out):
    """out[q, x] = sum of rows[q] within `radius` of x."""
    n = out.shape[1]
    for q in range(out.shape[0]):
        for x in range(n):
            out[q, x] = rows[q, x]
        for shift in range(1, radius + 1):
            for x in range(n - shift):
                out[q, x] += rows[q, x + shift]
            for x in range(n - shift):
                out[q, x + shift] += rows[q, x]


@_jit
def _window_y(ring, first, last, out):
    """out[q, x] = sum over the rows first <= y < last of a ring of rows."""
    n = out.shape[1]
    for q in range(out.shape[0]):
        for x in range(n):
            out[q, x] = 0
        for y in range(first, last):
            r = y % ring.shape[0]
            for x in range(n):
                out[q, x] += ring[r, q, x]


@_jit
def _products(fixed, moving, mask, y, first, last, a, b, out):
    """out[q, x]: sums over the planes first <= z < last of mask, f, m, f^2, m^2, f m in one row."""
    n = fixed.shape[2]
    out[:] = 0
    for z in range(first, last):
        for x in range(n):
            a[x] = fixed[z, y, x] * mask[z, y, x]
        for x in range(n):
            b[x] = moving[z, y, x] * mask[z, y, x]
        for x in range(n):
            out[0, x] += mask[z, y, x]
        for x in range(n):
            out[1, x] += a[x]
        for x in range(n):
            out[2, x] += b[x]
        for x in range(n):
            out[3, x] += a[x] * a[x]
        for x in range(n):
            out[4, x] += b[x] * b[x]
        for x in range(n):
            out[5, x] += a[x] * b[x]


@_jit
def _correlate(sums, mask, z, y, floor, share, norm, plane, losses):
    """Window sums of a row to A, B_f, B_m, C_f, C_m and the fourth root of the variances' ratio, in plane (6, y, x)."""
    n = sums.shape[1]
    zero, one = np.float32(0.0), np.float32(1.0)
    for x in range(n):
        share[x] = one / max(sums[0, x], one)
    for x in range(n):
        sums[1, x] *= share[x]
    for x in range(n):
        sums[2, x] *= share[x]
    for x in range(n):
        sums[3, x] = max(sums[3, x] * share[x] - sums[1, x] * sums[1, x], zero) + floor
    for x in range(n):
        sums[4, x] = max(sums[4, x] * share[x] - sums[2, x] * sums[2, x], zero) + floor
    for x in range(n):
        norm[x] = one / np.sqrt(sums[3, x] * sums[4, x])
    for x in range(n):
        sums[5, x] = (sums[5, x] * share[x] - sums[1, x] * sums[2, x]) * norm[x]
    for x in range(n):
        losses[x] += sums[5, x] * mask[z, y, x]
    for x in range(n):
        share[x] *= mask[z, y, x]
    for x in range(n):
        plane[0, y, x] = norm[x] * share[x]
    for x in range(n):
        plane[1, y, x] = sums[5, x] / sums[3, x] * share[x]
    for x in range(n):
        plane[2, y, x] = sums[5, x] / sums[4, x] * share[x]
    for x in range(n):
        plane[3, y, x] = plane[1, y, x] * sums[1, x] - plane[0, y, x] * sums[2, x]
    for x in range(n):
        plane[4, y, x] = plane[2, y, x] * sums[2, x] - plane[0, y, x] * sums[1, x]
    for x in range(n):
        plane[5, y, x] = np.sqrt(np.sqrt(sums[4, x] / sums[3, x]))


@_jit
def _moments(fixed, moving, mask, z, radius, floor, ring, column, sums, plane, losses):
    """Correlation in one plane of the images."""
    depth, height, n = fixed.shape
    first, last = max(0, z - radius), min(depth, z + radius + 1)
    a, b = np.empty(n, np.float32), np.empty(n, np.float32)
    for ahead in range(height + radius):
        if ahead < height:
            _products(fixed, moving, mask, ahead, first, last, a, b, ring[ahead % ring.shape[0]])
        y = ahead - radius
        if y >= 0:
            _window_y(ring, max(0, y - radius), min(height, y + radius + 1), column)
            _window_x(column, radius, sums)
            _correlate(sums, mask, z, y, floor, a, b, plane, losses)


@_jit
def _gather(planes, y, first, last, out):
    """out[q, x]: sums over a ring of planes of their first five quantities in one row."""
    n = planes.shape[3]
    for q in range(5):
        for x in range(n):
            out[q, x] = 0
        for z in range(first, last):
            r = z % planes.shape[0]
            for x in range(n):
                out[q, x] += planes[r, q, y, x]


@_jit
def _push(fixed, moving, mask, z, y, sums, planes, root, by_fixed, by_moving, scale_f, scale_m):
    """Window sums of a row to the forces and scales."""
    n = fixed.shape[2]
    zero = np.float32(0.0)
    r = z % planes.shape[0]
    for x in range(n):
        by_moving[z, y, x] = (moving[z, y, x] * sums[2, x] - fixed[z, y, x] * sums[0, x] - sums[4, x]) * mask[z, y, x]
    for x in range(n):
        by_fixed[z, y, x] = (fixed[z, y, x] * sums[1, x] - moving[z, y, x] * sums[0, x] - sums[3, x]) * mask[z, y, x]
    for x in range(n):
        root[x] = np.sqrt(max(sums[0, x], zero)) * mask[z, y, x]
    for x in range(n):
        scale_f[z, y, x] = root[x] * planes[r, 5, y, x]
    for x in range(n):
        scale_m[z, y, x] = root[x] / planes[r, 5, y, x]


@_jit
def _forces(fixed, moving, mask, z, radius, planes, ring, column, sums, by_fixed, by_moving, scale_f, scale_m):
    """Forces of one plane of the images."""
    depth, height, n = fixed.shape
    first, last = max(0, z - radius), min(depth, z + radius + 1)
    root = np.empty(n, np.float32)
    for ahead in range(height + radius):
        if ahead < height:
            _gather(planes, ahead, first, last, ring[ahead % ring.shape[0]])
        y = ahead - radius
        if y >= 0:
            _window_y(ring, max(0, y - radius), min(height, y + radius + 1), column)
            _window_x(column, radius, sums)
            _push(fixed, moving, mask, z, y, sums, planes, root, by_fixed, by_moving, scale_f, scale_m)


@_jit
def sweep(fixed, moving, mask, radius, floor, by_fixed, by_moving, scale_f, scale_m):
    """Fill the forces and scales (z, y, x float32, C order); return the sum of the correlation over the mask."""
    depth, height, n = fixed.shape
    width = 2 * radius + 1
    planes = np.empty((width, 6, height, n), np.float32)
    ring6, column6 = np.empty((width, 6, n), np.float32), np.empty((6, n), np.float32)
    ring5, column5 = np.empty((width, 5, n), np.float32), np.empty((5, n), np.float32)
    sums = np.empty((6, n), np.float32)
    losses = np.zeros(n, np.float64)
    for ahead in range(depth + radius):
        if ahead < depth:
            _moments(fixed, moving, mask, ahead, radius, floor, ring6, column6, sums, planes[ahead % width], losses)
        z = ahead - radius
        if z >= 0:
            _forces(
                fixed, moving, mask, z, radius, planes, ring5, column5, sums[:5],
                by_fixed, by_moving, scale_f, scale_m,
            )  # fmt: skip
    return losses.sum()
