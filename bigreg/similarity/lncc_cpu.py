"""Local correlation and its gradient on a CPU core, in one sweep over the planes of the images.

The same formulas as `lncc`. Window sums are made row by row: over z from the planes themselves, then over y and x from
rows that stay in the first-level cache. The second sums follow `radius` planes behind the first, so that what lies
between them is a ring of planes instead of volumes.

Written so that the compiler makes vector instructions of it: each loop has one result (with several it cannot tell that
rows do not overlap), arrays are indexed, not sliced (a slice of a row costs as much as the row), and the window is a
tuple of 2 radius + 1 entries, whose length is known when the loops over it are compiled.
"""

from __future__ import annotations

import numpy as np

from ..jit import compiled


@compiled
def _window_x(rows, window, out):
    """out[q, x] = sum of rows[q, x] to rows[q, x + width - 1]."""
    for q in range(out.shape[0]):
        for x in range(out.shape[1]):
            total = np.float32(0.0)
            for k in range(len(window)):
                total += rows[q, x + k]
            out[q, x] = total


@compiled
def _window_y(ring, window, out):
    """out[q, radius + x] = sum over a ring of rows; the ends of `out` stay as they are."""
    for q in range(out.shape[0]):
        for x in range(ring.shape[2]):
            total = np.float32(0.0)
            for k in range(len(window)):
                total += ring[k, q, x]
            out[q, x + len(window) // 2] = total


@compiled
def _products(fixed, moving, mask, y, window, out):
    """out[q, x]: sums over all given planes of mask, f, m, f^2, m^2, f m in one row."""
    n = fixed.shape[2]
    if fixed.shape[0] < len(window):
        _products_of_some(fixed, moving, mask, y, out)
        return
    for x in range(n):
        total = np.float32(0.0)
        for k in range(len(window)):
            total += mask[k, y, x]
        out[0, x] = total
    for x in range(n):
        total = np.float32(0.0)
        for k in range(len(window)):
            total += fixed[k, y, x] * mask[k, y, x]
        out[1, x] = total
    for x in range(n):
        total = np.float32(0.0)
        for k in range(len(window)):
            total += moving[k, y, x] * mask[k, y, x]
        out[2, x] = total
    for x in range(n):
        total = np.float32(0.0)
        for k in range(len(window)):
            total += fixed[k, y, x] * fixed[k, y, x] * mask[k, y, x]
        out[3, x] = total
    for x in range(n):
        total = np.float32(0.0)
        for k in range(len(window)):
            total += moving[k, y, x] * moving[k, y, x] * mask[k, y, x]
        out[4, x] = total
    for x in range(n):
        total = np.float32(0.0)
        for k in range(len(window)):
            total += fixed[k, y, x] * moving[k, y, x] * mask[k, y, x]
        out[5, x] = total


@compiled
def _products_of_some(fixed, moving, mask, y, out):
    """The same near the first and last planes, where the window is cut."""
    n = fixed.shape[2]
    out[:] = 0
    for z in range(fixed.shape[0]):
        for x in range(n):
            out[0, x] += mask[z, y, x]
        for x in range(n):
            out[1, x] += fixed[z, y, x] * mask[z, y, x]
        for x in range(n):
            out[2, x] += moving[z, y, x] * mask[z, y, x]
        for x in range(n):
            out[3, x] += fixed[z, y, x] * fixed[z, y, x] * mask[z, y, x]
        for x in range(n):
            out[4, x] += moving[z, y, x] * moving[z, y, x] * mask[z, y, x]
        for x in range(n):
            out[5, x] += fixed[z, y, x] * moving[z, y, x] * mask[z, y, x]


@compiled
def _correlate(sums, mask, z, y, floor, squared, share, norm, plane, losses):
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
        share[x] *= mask[z, y, x]
    if squared:
        two = np.float32(2.0)
        for x in range(n):
            losses[x] += sums[5, x] * sums[5, x] * mask[z, y, x]
        for x in range(n):
            share[x] *= two * sums[5, x]
    else:
        for x in range(n):
            losses[x] += sums[5, x] * mask[z, y, x]
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


@compiled
def _moments(fixed, moving, mask, z, window, floor, squared, ring, column, sums, plane, losses):
    """Correlation in one plane of the images."""
    depth, height, n = fixed.shape
    radius = len(window) // 2
    first, last = max(0, z - radius), min(depth, z + radius + 1)
    planes_f, planes_m, planes_k = fixed[first:last], moving[first:last], mask[first:last]
    a, b = np.empty(n, np.float32), np.empty(n, np.float32)
    ring[:] = 0
    for ahead in range(height + radius):
        if ahead < height:
            _products(planes_f, planes_m, planes_k, ahead, window, ring[ahead % len(window)])
        else:
            ring[ahead % len(window)] = 0
        y = ahead - radius
        if y >= 0:
            _window_y(ring, window, column)
            _window_x(column, window, sums)
            _correlate(sums, mask, z, y, floor, squared, a, b, plane, losses)


@compiled
def correlation(fixed, moving, mask, window, floor, out):
    """Fill the local correlation (z, y, x float32), 0 outside of the mask."""
    depth, height, n = fixed.shape
    width, radius = len(window), len(window) // 2
    ring, column = np.zeros((width, 6, n), np.float32), np.zeros((6, n + 2 * radius), np.float32)
    sums, share = np.empty((6, n), np.float32), np.empty(n, np.float32)
    one, zero = np.float32(1.0), np.float32(0.0)
    for z in range(depth):
        first, last = max(0, z - radius), min(depth, z + radius + 1)
        planes_f, planes_m, planes_k = fixed[first:last], moving[first:last], mask[first:last]
        ring[:] = 0
        for ahead in range(height + radius):
            if ahead < height:
                _products(planes_f, planes_m, planes_k, ahead, window, ring[ahead % width])
            else:
                ring[ahead % width] = 0
            y = ahead - radius
            if y < 0:
                continue
            _window_y(ring, window, column)
            _window_x(column, window, sums)
            for x in range(n):
                share[x] = one / max(sums[0, x], one)
            for q in range(1, 6):
                for x in range(n):
                    sums[q, x] *= share[x]
            for x in range(n):
                sums[3, x] = max(sums[3, x] - sums[1, x] * sums[1, x], zero) + floor
            for x in range(n):
                sums[4, x] = max(sums[4, x] - sums[2, x] * sums[2, x], zero) + floor
            for x in range(n):
                sums[5, x] = (sums[5, x] - sums[1, x] * sums[2, x]) / np.sqrt(sums[3, x] * sums[4, x])
            for x in range(n):
                out[z, y, x] = sums[5, x] * mask[z, y, x]


@compiled
def _gather(planes, y, window, out):
    """out[q, x]: sums over a ring of planes of their first five quantities in one row."""
    for q in range(5):
        for x in range(planes.shape[3]):
            total = np.float32(0.0)
            for k in range(len(window)):
                total += planes[k, q, y, x]
            out[q, x] = total


@compiled
def _push(fixed, moving, mask, z, y, sums, planes, squared, root, by_fixed, by_moving, scale_f, scale_m):
    """Window sums of a row to the forces and scales."""
    n = fixed.shape[2]
    zero = np.float32(0.0)
    r = z % planes.shape[0]
    for x in range(n):
        by_moving[z, y, x] = (moving[z, y, x] * sums[2, x] - fixed[z, y, x] * sums[0, x] - sums[4, x]) * mask[z, y, x]
    for x in range(n):
        by_fixed[z, y, x] = (fixed[z, y, x] * sums[1, x] - moving[z, y, x] * sums[0, x] - sums[3, x]) * mask[z, y, x]
    if squared:
        for x in range(n):
            root[x] = np.sqrt(np.abs(sums[0, x])) * mask[z, y, x]
    else:
        for x in range(n):
            root[x] = np.sqrt(max(sums[0, x], zero)) * mask[z, y, x]
    for x in range(n):
        scale_f[z, y, x] = root[x] * planes[r, 5, y, x]
    for x in range(n):
        scale_m[z, y, x] = root[x] / planes[r, 5, y, x]
    if squared:
        for x in range(n):
            scale_m[z, y, x] = np.copysign(scale_m[z, y, x], sums[0, x])


@compiled
def _forces(fixed, moving, mask, z, window, planes, squared, ring, column, sums, by_fixed, by_moving, scale_f, scale_m):
    """Forces of one plane of the images."""
    _, height, n = fixed.shape
    radius = len(window) // 2
    root = np.empty(n, np.float32)
    ring[:] = 0
    for ahead in range(height + radius):
        if ahead < height:
            _gather(planes, ahead, window, ring[ahead % len(window)])
        else:
            ring[ahead % len(window)] = 0
        y = ahead - radius
        if y >= 0:
            _window_y(ring, window, column)
            _window_x(column, window, sums)
            _push(fixed, moving, mask, z, y, sums, planes, squared, root, by_fixed, by_moving, scale_f, scale_m)


@compiled
def sweep(fixed, moving, mask, window, floor, squared, by_fixed, by_moving, scale_f, scale_m):
    """Fill the forces and scales (z, y, x float32, C order); return the sum of the correlation over the mask.

    window   any tuple of 2 radius + 1 integers
    """
    depth, height, n = fixed.shape
    width, radius = len(window), len(window) // 2
    planes = np.zeros((width, 6, height, n), np.float32)
    ring6, column6 = np.empty((width, 6, n), np.float32), np.zeros((6, n + 2 * radius), np.float32)
    ring5, column5 = np.empty((width, 5, n), np.float32), np.zeros((5, n + 2 * radius), np.float32)
    sums6, sums5 = np.empty((6, n), np.float32), np.empty((5, n), np.float32)
    losses = np.zeros(n, np.float64)
    for ahead in range(depth + radius):
        plane = planes[ahead % width]
        if ahead < depth:
            _moments(fixed, moving, mask, ahead, window, floor, squared, ring6, column6, sums6, plane, losses)
        else:
            plane[:5] = 0
        z = ahead - radius
        if z >= 0:
            _forces(
                fixed,
                moving,
                mask,
                z,
                window,
                planes,
                squared,
                ring5,
                column5,
                sums5,
                by_fixed,
                by_moving,
                scale_f,
                scale_m,
            )
    return losses.sum()
