"""Images seen through an affine, and their forces on its twelve elements, each in one sweep on a CPU core."""

from __future__ import annotations

import numpy as np

from ..jit import compiled
from ..transforms.field_cpu import sample_linear
from .midspace_cpu import _slopes


@compiled
def _inside(index, shape, out):
    """out[x] = 1 within half a voxel of the outer voxel centres, else 0, with a little slack against rounding."""
    slack = np.float32(0.501)
    for x in range(out.shape[0]):
        out[x] = np.float32(1.0)
    for axis in range(3):
        end = np.float32(shape[axis] - 1) + slack
        for x in range(out.shape[0]):
            out[x] = out[x] if (index[axis, x] >= -slack) & (index[axis, x] <= end) else np.float32(0.0)


@compiled
def view(images, mask, start, steps, out, seen):
    """Fill out (C, z, y, x) with images (C, ...) and seen (z, y, x), 1 where they have data; clamped to the border.

    mask    (1, ...) 0 or 1, or of first length 0 where there is none
    start   (3,) float64 index position of the first sample; steps (3, 3): column k is the step along axis k
    """
    _, depth, height, n = out.shape
    index, own = np.empty((3, n), np.float32), np.empty((1, n), np.float32)
    row = np.empty((images.shape[0], n), np.float32)
    for z in range(depth):
        for y in range(height):
            for axis in range(3):
                base = np.float32(start[axis] + z * steps[axis, 0] + y * steps[axis, 1])
                step = np.float32(steps[axis, 2])
                for x in range(n):
                    index[axis, x] = base + np.float32(np.int32(x)) * step
            _inside(index, images.shape[1:], seen[z, y])
            sample_linear(images, index, row)
            for c in range(images.shape[0]):
                for x in range(n):
                    out[c, z, y, x] = row[c, x]
            if mask.shape[0] > 0:
                sample_linear(mask, index, own)
                for x in range(n):
                    seen[z, y, x] = seen[z, y, x] if own[0, x] > np.float32(0.99) else np.float32(0.0)


@compiled
def _moments(sums, first, step, out):
    """out[p] = sum over x of sums[x] times the p-th power of the place first + x step."""
    out[:] = 0
    for x in range(sums.shape[0]):
        power = np.float64(sums[x])
        for p in range(out.shape[0]):
            out[p] += power
            power *= first + x * step


@compiled
def _settle(forces, products, z, first, step, slope, matrix):
    """Add a plane's sums, (.., powers of y, x), times the powers of x and z; see `pull`."""
    line = np.empty((3, 3), np.float64)
    for c in range(3):
        for q in range(2):
            _moments(forces[c, q], first, step, line[q, : 2 - q])
        slope[c, 0] += z * line[0, 0]
        slope[c, 1] += line[1, 0]
        slope[c, 2] += line[0, 1]
        slope[c, 3] += line[0, 0]
    for k in range(6):
        for q in range(3):
            _moments(products[k, q], first, step, line[q, : 3 - q])
        one, x, xx, y, yx, yy = line[0, 0], line[0, 1], line[0, 2], line[1, 0], line[1, 1], line[2, 0]
        for i, value in enumerate((z * z * one, z * y, z * x, z * one, yy, yx, y, xx, x, one)):
            matrix[k, i] += value


@compiled
def pull(fixed, moving, by_fixed, by_moving, scale_f, scale_m, even, first, step, slope, matrix):
    """Add up the forces of a pair (z, y, x) and their curvature j j^T with the places X = (z, y, x, 1).

    even          (3,) float32 slopes are multiplied by this
    first, step   (3,) place of the first sample, and the distance of two; about -1 .. 1
    slope         (3, 4) float64 sums of force_i X_k
    matrix        (6, 10) float64 sums of j_i j_j X_k X_l, ij and kl the entries of an upper triangle, row by row
    """
    depth, height, n = fixed.shape
    slope_f, slope_m = np.empty((3, n), np.float32), np.empty((3, n), np.float32)
    forces, products = np.empty((3, 2, n), np.float32), np.empty((6, 3, n), np.float32)
    value = np.empty(n, np.float32)
    for z in range(depth):
        forces[:] = 0
        products[:] = 0
        for y in range(height):
            place = np.float32(first[1] + y * step[1])
            _slopes(fixed, z, y, slope_f)
            _slopes(moving, z, y, slope_m)
            for c in range(3):
                for x in range(n):
                    value[x] = (slope_f[c, x] * by_fixed[z, y, x] - slope_m[c, x] * by_moving[z, y, x]) * even[c]
                for x in range(n):
                    forces[c, 0, x] += value[x]
                for x in range(n):
                    forces[c, 1, x] += value[x] * place
                for x in range(n):
                    value[x] = slope_m[c, x] * scale_m[z, y, x]
                for x in range(n):
                    slope_f[c, x] = (slope_f[c, x] * scale_f[z, y, x] + value[x]) * even[c]
            k = 0
            for i in range(3):
                for j in range(i, 3):
                    for x in range(n):
                        value[x] = slope_f[i, x] * slope_f[j, x]
                    for x in range(n):
                        products[k, 0, x] += value[x]
                    for x in range(n):
                        products[k, 1, x] += value[x] * place
                    for x in range(n):
                        products[k, 2, x] += value[x] * (place * place)
                    k += 1
        _settle(forces, products, first[0] + z * step[0], first[2], step[2], slope, matrix)
