"""Mutual information on a CPU core: spread, joint histogram and derivatives, each in one sweep over the images.

The same formulas as `information`. Voxels outside of the mask are skipped where they lie; they may hold anything, NaN
too. Within a cell between bins the weights of the cubic B-spline are polynomials of the fractions t and u at which a
voxel's intensities lie there. So a voxel adds the 16 powers t^i u^j to its cell, and the weights are made of their sums
at the end; and it is pulled by the derivative of one polynomial of 16 coefficients.
"""

from __future__ import annotations

import numpy as np

from ..jit import compiled

# Row i: coefficients of t^i in the weights of the four bins around a cell.
POWERS = np.array([[1.0, 4.0, 1.0, 0.0], [-3.0, 0.0, 3.0, 0.0], [3.0, -6.0, 3.0, 0.0], [-1.0, 3.0, -3.0, 1.0]]) / 6.0


@compiled
def _pivot(image, mask):
    """Some value of the masked voxels, 0 without any."""
    for z in range(image.shape[0]):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                if mask[z, y, x] > 0:
                    return image[z, y, x]
    return np.float32(0.0)


@compiled
def _gauge(image, mask, pivot, out):
    """Fill mean, SD, least and largest; return the number of masked voxels. Sums are kept for each x."""
    depth, height, n = image.shape
    row, low, high = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    count, total, square = np.zeros(n, np.int32), np.zeros(n, np.float64), np.zeros(n, np.float64)
    low[:] = pivot
    high[:] = pivot
    for z in range(depth):
        for y in range(height):
            for x in range(n):
                row[x] = image[z, y, x] if mask[z, y, x] > 0 else pivot
            for x in range(n):
                count[x] += 1 if mask[z, y, x] > 0 else 0
            for x in range(n):
                total[x] += np.float64(row[x]) - pivot
            for x in range(n):
                d = np.float64(row[x]) - pivot
                square[x] += d * d
            for x in range(n):
                low[x] = row[x] if row[x] < low[x] else low[x]
            for x in range(n):
                high[x] = row[x] if row[x] > high[x] else high[x]
    voxels = count.sum()
    mean = total.sum() / max(voxels, 1)
    out[0] = pivot + mean
    out[1] = np.sqrt(max(square.sum() / max(voxels, 1) - mean * mean, 0.0))
    out[2] = low.min()
    out[3] = high.max()
    return voxels


@compiled
def spread(fixed, moving, mask, out):
    """Fill (2, 4) float64: mean, SD, least and largest of each image (z, y, x float32) in the mask; return its voxels.

    The SD of a single value is 0 exactly.
    """
    _gauge(fixed, mask, _pivot(fixed, mask), out[0])
    return _gauge(moving, mask, _pivot(moving, mask), out[1])


@compiled
def _place(image, z, y, low, scale, last, first, part):
    """A row's cells (x,) int32, 0 .. last, and fractions (x,) of its intensities; NaN counts as the lowest."""
    zero, end = np.float32(0.0), np.float32(last)
    for x in range(image.shape[2]):
        p = (image[z, y, x] - low) * scale
        p = p if p > zero else zero
        part[x] = p if p < end else end
    for x in range(image.shape[2]):
        first[x] = np.int32(part[x])
    for x in range(image.shape[2]):
        part[x] -= np.float32(first[x])


@compiled
def _cells(first_f, first_m, cells):
    """first_f (x,) becomes the flat index of the cell of both images."""
    many = np.int32(cells)
    for x in range(first_f.shape[0]):
        first_f[x] = first_f[x] * many + first_m[x]


@compiled
def tally(fixed, moving, mask, low, scale, cells, out):
    """Add the powers of the masked voxels to `out` (cells^2 * 16,) float64.

    low, scale   (2,) float32, of fixed and moving: an intensity v lies (v - low) scale cells up
    """
    depth, height, n = fixed.shape
    first_f, first_m = np.empty(n, np.int32), np.empty(n, np.int32)
    part_f, part_m = np.empty(n, np.float32), np.empty(n, np.float32)
    for z in range(depth):
        for y in range(height):
            _place(fixed, z, y, low[0], scale[0], cells - 1, first_f, part_f)
            _place(moving, z, y, low[1], scale[1], cells - 1, first_m, part_m)
            _cells(first_f, first_m, cells)
            for x in range(n):
                if mask[z, y, x] > 0:
                    t, u = np.float64(part_f[x]), np.float64(part_m[x])
                    u2 = u * u
                    u3 = u2 * u
                    at, power = np.uint64(first_f[x]) * np.uint64(16), 1.0
                    for _ in range(4):
                        out[at] += power
                        out[at + np.uint64(1)] += power * u
                        out[at + np.uint64(2)] += power * u2
                        out[at + np.uint64(3)] += power * u3
                        at += np.uint64(4)
                        power *= t


@compiled
def pull(fixed, moving, mask, low, high, scale, cells, terms, arms, by_fixed, by_moving, scale_f, scale_m):
    """Fill the forces and scales (z, y, x float32), 0 outside of the mask and, the forces, of low .. high.

    low, high, scale   (2,) float32, of fixed and moving
    terms              (cells^2 * 16,) float32: coefficients of t^i u^j of each cell's loss
    arms               (2, cells^2) float32: the scales of each cell
    """
    depth, height, n = fixed.shape
    first_f, first_m = np.empty(n, np.int32), np.empty(n, np.int32)
    part_f, part_m = np.empty(n, np.float32), np.empty(n, np.float32)
    zero, two, three = np.float32(0.0), np.float32(2.0), np.float32(3.0)
    for z in range(depth):
        for y in range(height):
            _place(fixed, z, y, low[0], scale[0], cells - 1, first_f, part_f)
            _place(moving, z, y, low[1], scale[1], cells - 1, first_m, part_m)
            _cells(first_f, first_m, cells)
            for x in range(n):
                by_f = by_m = arm_f = arm_m = zero
                if mask[z, y, x] > 0:
                    t, u = part_f[x], part_m[x]
                    at = np.uint64(first_f[x])
                    arm_f, arm_m = arms[0, at], arms[1, at]
                    at *= np.uint64(16)
                    # Of the polynomial's row for each power of t, q is the value at u and s the derivative.
                    s0 = _slope(terms, at, u)
                    at += np.uint64(4)
                    q1, s1 = _value(terms, at, u), _slope(terms, at, u)
                    at += np.uint64(4)
                    q2, s2 = _value(terms, at, u), _slope(terms, at, u)
                    at += np.uint64(4)
                    q3, s3 = _value(terms, at, u), _slope(terms, at, u)
                    if (fixed[z, y, x] > low[0]) & (fixed[z, y, x] < high[0]):
                        by_f = (q1 + t * (two * q2 + t * three * q3)) * scale[0]
                    if (moving[z, y, x] > low[1]) & (moving[z, y, x] < high[1]):
                        by_m = (s0 + t * (s1 + t * (s2 + t * s3))) * scale[1]
                by_fixed[z, y, x] = by_f
                by_moving[z, y, x] = by_m
                scale_f[z, y, x] = arm_f
                scale_m[z, y, x] = arm_m


@compiled
def _value(terms, at, u):
    return terms[at] + u * (terms[at + np.uint64(1)] + u * (terms[at + np.uint64(2)] + u * terms[at + np.uint64(3)]))


@compiled
def _slope(terms, at, u):
    two, three = np.float32(2.0), np.float32(3.0)
    return terms[at + np.uint64(1)] + u * (two * terms[at + np.uint64(2)] + u * three * terms[at + np.uint64(3)])
