"""Mid-space warps and their pull-back to the lattice on a CPU core, each in one sweep without a velocity array.

A row of samples needs 16 rows of control points; they are blended once, and 4 taps a sample are left. The pull-back
goes the other way: force rows are gathered into rows of control points, and those into the lattice.
"""

from __future__ import annotations

import numpy as np

from ..jit import compiled


@compiled
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


@compiled
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


@compiled
def _lerp(image, at, dz, dy, dx, tz, ty, tx):
    a, b, c, d = image[at], image[at + dy], image[at + dz], image[at + dz + dy]
    a += tx * (image[at + dx] - a)
    b += tx * (image[at + dy + dx] - b)
    c += tx * (image[at + dz + dx] - c)
    d += tx * (image[at + dz + dy + dx] - d)
    a += ty * (b - a)
    c += ty * (d - c)
    return a + tz * (c - a)


@compiled
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


@compiled
def _sample_row(image, own, whole, z, y, sign, velocity, at, parts, out, seen):
    """out[:, z, y, x] = image at (z, y, x) + sign * velocity; seen[x] becomes 0 where that has no data."""
    channels, depth, height, n = image.shape
    _place(own.shape, z, y, sign, velocity, at, parts, seen)
    dz = np.uint32(height * n if depth > 1 else 0)
    dy, dx = np.uint32(n if height > 1 else 0), np.uint32(1 if n > 1 else 0)
    t0, t1, t2 = parts[0], parts[1], parts[2]
    for c in range(channels):
        flat = image[c].reshape(-1)
        for x in range(n):
            out[c, z, y, x] = _lerp(flat, np.uint32(at[x]), dz, dy, dx, t0[x], t1[x], t2[x])
    if not whole:
        flat = own.reshape(-1)
        for x in range(n):
            if not _lerp(flat, np.uint32(at[x]), dz, dy, dx, t0[x], t1[x], t2[x]) > np.float32(0.99):
                seen[x] = np.float32(0.0)


@compiled
def warp(coefficients, weights_z, first_z, weights_y, first_y, weights_x, first_x,
         fixed, moving, mask_f, mask_m, whole, out_f, out_m, out_mask):  # fmt: skip
    """fixed at x + v, moving at x - v (C, z, y, x), where both have data; v from coefficients (3, ...) in voxels."""
    _, depth, height, n = fixed.shape
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
            _sample_row(fixed, mask_f, whole, z, y, np.float32(1.0), velocity, at, parts, out_f, seen)
            _sample_row(moving, mask_m, whole, z, y, np.float32(-1.0), velocity, at, parts, out_m, seen)


@compiled
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


@compiled
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


@compiled
def _spread(rows, weights, first, out):
    """out[c, first + i] += weights[i] * rows[c] for the four control rows of a row (or planes of a plane)."""
    for c in range(rows.shape[0]):
        for i in range(4):
            w = weights[i]
            row, total = rows[c], out[c, first + i]
            for a in range(row.shape[0]):
                total[a] += w * row[a]


@compiled
def _arms(slope_f, slope_m, values):
    """values[3:] += the six products of the row j = slope_f + slope_m with itself."""
    for c in range(3):
        for x in range(slope_f.shape[1]):
            slope_f[c, x] += slope_m[c, x]
    for k in range(6):
        i, j = (k, k) if k < 3 else ((0, k - 2) if k < 5 else (1, 2))
        for x in range(slope_f.shape[1]):
            values[3 + k, x] += slope_f[i, x] * slope_f[j, x]


@compiled
def _settle(values, z, y, weights_y, first_y, weights_x, first_x, rows, plane):
    """Gather a row of samples into control rows, and those into a plane."""
    rows[:] = 0
    _gather(values, weights_x, first_x, rows)
    py = y % weights_y.shape[0]
    _spread(rows, weights_y[py], y // weights_y.shape[0] + first_y[py], plane)


@compiled
def _settle_plane(plane, z, weights_z, first_z, slope, matrix):
    pz = z % weights_z.shape[0]
    first = z // weights_z.shape[0] + first_z[pz]
    for c in range(plane.shape[0]):
        for i in range(4):
            w = weights_z[pz, i]
            target = slope[c, first + i] if c < 3 else matrix[c - 3, first + i]
            for y in range(plane.shape[1]):
                for x in range(plane.shape[2]):
                    target[y, x] += w * plane[c, y, x]


@compiled
def pull(fixed, moving, by_fixed, by_moving, scale_f, scale_m, weights_z, first_z, weights_y, first_y,
         weights_x, first_x, slope, matrix):  # fmt: skip
    """Add the forces of a warped pair (z, y, x) to `slope` (3, ...), and their curvature j j^T to `matrix` (6, ...).

    matrix of first length 0 is left out (then the scales are not read).
    """
    depth, height, n = fixed.shape
    curvature = matrix.shape[0] > 0
    slope_f, slope_m = np.empty((3, n), np.float32), np.empty((3, n), np.float32)
    parts = 9 if curvature else 3
    values = np.empty((parts, n), np.float32)
    rows = np.empty((parts, slope.shape[3]), np.float32)
    plane = np.empty((parts, slope.shape[2], slope.shape[3]), np.float32)
    for z in range(depth):
        plane[:] = 0
        for y in range(height):
            _slopes(fixed, z, y, slope_f)
            _slopes(moving, z, y, slope_m)
            for c in range(3):
                for x in range(n):
                    values[c, x] = slope_f[c, x] * by_fixed[z, y, x] - slope_m[c, x] * by_moving[z, y, x]
            if curvature:
                values[3:] = 0
                for c in range(3):
                    for x in range(n):
                        slope_f[c, x] *= scale_f[z, y, x]
                    for x in range(n):
                        slope_m[c, x] *= scale_m[z, y, x]
                _arms(slope_f, slope_m, values)
            _settle(values, z, y, weights_y, first_y, weights_x, first_x, rows, plane)
        _settle_plane(plane, z, weights_z, first_z, slope, matrix)


@compiled
def pull_mse(fixed, moving, mask, weights_z, first_z, weights_y, first_y, weights_x, first_x, slope, matrix):
    """The same for half the squared difference of a pair (C, z, y, x), summed over channels; returns the loss."""
    channels, depth, height, n = fixed.shape
    curvature = matrix.shape[0] > 0
    slope_f, slope_m = np.empty((3, n), np.float32), np.empty((3, n), np.float32)
    residual, losses = np.empty(n, np.float32), np.zeros(n, np.float64)
    parts = 9 if curvature else 3
    values = np.empty((parts, n), np.float32)
    rows = np.empty((parts, slope.shape[3]), np.float32)
    plane = np.empty((parts, slope.shape[2], slope.shape[3]), np.float32)
    for z in range(depth):
        plane[:] = 0
        for y in range(height):
            values[:] = 0
            for k in range(channels):
                for x in range(n):
                    residual[x] = (fixed[k, z, y, x] - moving[k, z, y, x]) * mask[z, y, x]
                for x in range(n):
                    losses[x] += residual[x] * residual[x]
                _slopes(fixed[k], z, y, slope_f)
                _slopes(moving[k], z, y, slope_m)
                for c in range(3):
                    for x in range(n):
                        values[c, x] += (slope_f[c, x] + slope_m[c, x]) * residual[x]
                if curvature:
                    for c in range(3):
                        for x in range(n):
                            slope_f[c, x] *= mask[z, y, x]
                        for x in range(n):
                            slope_m[c, x] *= mask[z, y, x]
                    _arms(slope_f, slope_m, values)
            _settle(values, z, y, weights_y, first_y, weights_x, first_x, rows, plane)
        _settle_plane(plane, z, weights_z, first_z, slope, matrix)
    return 0.5 * losses.sum()
