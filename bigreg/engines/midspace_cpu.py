"""Mid-space warps and their pull-back to the lattice on a CPU core, each in one sweep without a velocity array.

A row of samples needs 16 rows of control points; they are blended once, and 4 taps a sample are left. The pull-back
goes the other way: force rows are gathered into rows of control points, and those into the lattice.
"""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})


@_jit
def _row(coefficients, z_weights, z_first, y_weights, y_first, out):
    """out[c, a] = sum over the 4 x 4 control rows around a row of samples."""
    n = out.shape[1]
    out[:] = 0
    for c in range(out.shape[0]):
        total = out[c]
        for i in range(4):
            for j in range(4):
                w = z_weights[i] * y_weights[j]
                row = coefficients[c, z_first + i, y_first + j]
                for a in range(n):
                    total[a] += w * row[a]


@_jit
def _expand(points, weights, first, out):
    """out[c, x]: control points of a row to samples; weights (samples a cell, 4), first (samples a cell,)."""
    samples = weights.shape[0]
    cells = out.shape[1] // samples
    for c in range(out.shape[0]):
        row, total = points[c], out[c]
        for p in range(samples):
            w0, w1, w2, w3 = weights[p, 0], weights[p, 1], weights[p, 2], weights[p, 3]
            o = first[p]
            for k in range(cells):
                a = k + o
                total[k * samples + p] = w0 * row[a] + w1 * row[a + 1] + w2 * row[a + 2] + w3 * row[a + 3]


@_jit
def _lerp(image, at, dz, dy, dx, tz, ty, tx):
    a, b, c, d = image[at], image[at + dy], image[at + dz], image[at + dz + dy]
    a += tx * (image[at + dx] - a)
    b += tx * (image[at + dy + dx] - b)
    c += tx * (image[at + dz + dx] - c)
    d += tx * (image[at + dz + dy + dx] - d)
    a += ty * (b - a)
    c += ty * (d - c)
    return a + tz * (c - a)


@_jit
def _place(shape, z, y, sign, velocity, at, parts, seen):
    """Where a row of samples looks: `at`, the flat index of the lower corner, and its fractions (3, x)."""
    depth, height, n = shape
    zero = np.float32(0.0)
    end_z, end_y, end_x = np.float32(depth - 1), np.float32(height - 1), np.float32(n - 1)
    fz, fy = np.float32(z), np.float32(y)
    last_z, last_y, last_x = np.int32(max(depth - 2, 0)), np.int32(max(height - 2, 0)), np.int32(max(n - 2, 0))
    v0, v1, v2, t0, t1, t2 = velocity[0], velocity[1], velocity[2], parts[0], parts[1], parts[2]
    for x in range(n):
        t0[x] = fz + sign * v0[x]
    for x in range(n):
        t1[x] = fy + sign * v1[x]
    for x in range(n):
        t2[x] = np.float32(np.int32(x)) + sign * v2[x]
    for x in range(n):
        inside = (t0[x] >= zero) & (t0[x] <= end_z) & (t1[x] >= zero) & (t1[x] <= end_y)
        inside = inside & (t2[x] >= zero) & (t2[x] <= end_x)
        seen[x] = seen[x] if inside else zero
    high, wide = np.int32(height), np.int32(n)
    for x in range(n):
        p = min(max(t0[x], zero), end_z)
        i = min(np.int32(p), last_z)
        at[x] = i * high
        t0[x] = p - np.float32(i)
    for x in range(n):
        p = min(max(t1[x], zero), end_y)
        i = min(np.int32(p), last_y)
        at[x] = (at[x] + i) * wide
        t1[x] = p - np.float32(i)
    for x in range(n):
        p = min(max(t2[x], zero), end_x)
        i = min(np.int32(p), last_x)
        at[x] = at[x] + i
        t2[x] = p - np.float32(i)


@_jit
def _sample_row(image, own, whole, z, y, sign, velocity, at, parts, out, seen):
    """out[x] = image at (z, y, x) + sign * velocity; seen[x] becomes 0 where that has no data."""
    depth, height, n = image.shape
    _place(image.shape, z, y, sign, velocity, at, parts, seen)
    dz = np.uint32(height * n if depth > 1 else 0)
    dy, dx = np.uint32(n if height > 1 else 0), np.uint32(1 if n > 1 else 0)
    t0, t1, t2 = parts[0], parts[1], parts[2]
    flat = image.reshape(-1)
    for x in range(n):
        out[x] = _lerp(flat, np.uint32(at[x]), dz, dy, dx, t0[x], t1[x], t2[x])
    if not whole:
        flat = own.reshape(-1)
        for x in range(n):
            if not _lerp(flat, np.uint32(at[x]), dz, dy, dx, t0[x], t1[x], t2[x]) > np.float32(0.99):
                seen[x] = np.float32(0.0)


@_jit
def warp(coefficients, weights_z, first_z, weights_y, first_y, weights_x, first_x,
         fixed, moving, mask_f, mask_m, whole, out_f, out_m, out_mask):  # fmt: skip
    """fixed at x + v, moving at x - v and where both have data; v from coefficients (3, z, y, x) in voxels."""
    depth, height, n = fixed.shape
    rows = np.empty((3, coefficients.shape[3]), np.float32)
    velocity, parts, at = np.empty((3, n), np.float32), np.empty((3, n), np.float32), np.empty(n, np.int32)
    for z in range(depth):
        pz, cz = z % weights_z.shape[0], z // weights_z.shape[0]
        for y in range(height):
            py, cy = y % weights_y.shape[0], y // weights_y.shape[0]
            _row(coefficients, weights_z[pz], cz + first_z[pz], weights_y[py], cy + first_y[py], rows)
            _expand(rows, weights_x, first_x, velocity)
            seen = out_mask[z, y]
            seen[:] = 1
            _sample_row(fixed, mask_f, whole, z, y, np.float32(1.0), velocity, at, parts, out_f[z, y], seen)
            _sample_row(moving, mask_m, whole, z, y, np.float32(-1.0), velocity, at, parts, out_m[z, y], seen)


@_jit
def _slopes(image, z, y, out):
    """(3, x) central differences of one row, one-sided at the border, 0 along an axis of one sample."""
    depth, height, n = image.shape
    for axis in range(2):
        here, end = (z, depth - 1) if axis == 0 else (y, height - 1)
        low, high = max(here - 1, 0), min(here + 1, end)
        a = image[low, y] if axis == 0 else image[z, low]
        b = image[high, y] if axis == 0 else image[z, high]
        scale = np.float32(1.0 / max(high - low, 1))
        total = out[axis]
        for x in range(n):
            total[x] = (b[x] - a[x]) * scale
    row, total = image[z, y], out[2]
    half = np.float32(0.5)
    for x in range(1, n - 1):
        total[x] = (row[x + 1] - row[x - 1]) * half
    total[0] = row[min(1, n - 1)] - row[0]
    total[n - 1] = row[n - 1] - row[max(n - 2, 0)]


@_jit
def _gather(values, weights, first, out):
    """Transpose of `_expand`: out[c, a] += over the samples of a row."""
    samples = weights.shape[0]
    cells = values.shape[1] // samples
    for c in range(values.shape[0]):
        row, total = values[c], out[c]
        for p in range(samples):
            o = first[p]
            for i in range(4):
                w = weights[p, i]
                for k in range(cells):
                    total[k + o + i] += w * row[k * samples + p]


@_jit
def _spread(rows, weights, first, out):
    """out[c, first + i] += weights[i] * rows[c] for the four control rows of a row (or planes of a plane)."""
    for c in range(rows.shape[0]):
        for i in range(4):
            w = weights[i]
            row, total = rows[c], out[c, first + i]
            for a in range(row.shape[0]):
                total[a] += w * row[a]


@_jit
def pull(fixed, moving, by_fixed, by_moving, scale_f, scale_m, weights_z, first_z, weights_y, first_y,
         weights_x, first_x, slope, matrix):  # fmt: skip
    """Add the forces of a warped pair to `slope` (3, z, y, x), and their curvature j j^T to `matrix` (6, z, y, x).

    matrix of first length 0 is left out (then the scales are not read).
    """
    depth, height, n = fixed.shape
    curvature = matrix.shape[0] > 0
    points_y, points_x = slope.shape[2], slope.shape[3]
    slope_f, slope_m = np.empty((3, n), np.float32), np.empty((3, n), np.float32)
    parts = 9 if curvature else 3
    values = np.empty((parts, n), np.float32)
    rows = np.empty((parts, points_x), np.float32)
    plane = np.empty((parts, points_y, points_x), np.float32)
    for z in range(depth):
        plane[:] = 0
        for y in range(height):
            _slopes(fixed, z, y, slope_f)
            _slopes(moving, z, y, slope_m)
            b_f, b_m = by_fixed[z, y], by_moving[z, y]
            for c in range(3):
                f, m, out = slope_f[c], slope_m[c], values[c]
                for x in range(n):
                    out[x] = f[x] * b_f[x] - m[x] * b_m[x]
            if curvature:
                s_f, s_m = scale_f[z, y], scale_m[z, y]
                for c in range(3):
                    f, m = slope_f[c], slope_m[c]
                    for x in range(n):
                        f[x] = f[x] * s_f[x] + m[x] * s_m[x]
                a, b, c = slope_f[0], slope_f[1], slope_f[2]
                v3, v4, v5, v6, v7, v8 = values[3], values[4], values[5], values[6], values[7], values[8]
                for x in range(n):
                    v3[x] = a[x] * a[x]
                    v4[x] = b[x] * b[x]
                    v5[x] = c[x] * c[x]
                    v6[x] = a[x] * b[x]
                    v7[x] = a[x] * c[x]
                    v8[x] = b[x] * c[x]
            rows[:] = 0
            _gather(values, weights_x, first_x, rows)
            py = y % weights_y.shape[0]
            _spread(rows, weights_y[py], y // weights_y.shape[0] + first_y[py], plane)
        pz = z % weights_z.shape[0]
        first = z // weights_z.shape[0] + first_z[pz]
        for c in range(parts):
            for i in range(4):
                w = weights_z[pz, i]
                target = slope[c, first + i] if c < 3 else matrix[c - 3, first + i]
                for y in range(points_y):
                    row, total = plane[c, y], target[y]
                    for x in range(points_x):
                        total[x] += w * row[x]
