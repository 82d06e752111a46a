"""Self-similarities on a CPU core, in one sweep over the planes of an image."""

from __future__ import annotations

import numpy as np

from ..jit import compiled


@compiled
def _differences(flat, first, second, step, planes, out):
    """out[1 + x] = sum over planes, `step` apart, of the squared difference of two rows that start in `flat` there."""
    n = out.shape[0] - 2
    for x in range(n):
        out[x + 1] = np.float32(0.0)
    for _ in range(planes):
        for x in range(n):
            d = flat[first + np.uint64(x)] - flat[second + np.uint64(x)]
            out[x + 1] += d * d
        first += step
        second += step


@compiled
def self_distances(padded, dilation, pairs, floor, out):
    """Fill (pairs, z, y, x) float32 with -D / V: D of bigreg.similarity.mind, V its mean over the pairs plus `floor`.

    padded   image with `dilation` voxels more on every side, C order
    pairs    (pairs, 2, 3) int64 offsets of the two neighbours in units of `dilation`
    """
    count, depth, height, n = out.shape
    flat = padded.reshape(-1)
    wide, slab = padded.shape[2], padded.shape[1] * padded.shape[2]
    # Squared differences summed over z: a ring of three rows, with a zero at both ends; then over y, then over x.
    ring, column = np.zeros((3, count, n + 2), np.float32), np.zeros((count, n + 2), np.float32)
    share, scale = np.float32(1.0 / 27.0), np.float32(1.0 / count)
    sums = np.empty((count, n), np.float32)
    least, inverse = np.empty(n, np.float32), np.empty(n, np.float32)
    one = np.float32(1.0)
    for z in range(depth):
        low, high = max(z - 1, 0), min(z + 2, depth)
        ring[:] = 0
        for ahead in range(height + 1):
            r = ahead % 3
            for q in range(count):
                if ahead < height:
                    at = ((low + dilation) * padded.shape[1] + ahead + dilation) * wide + dilation
                    a, b = pairs[q, 0], pairs[q, 1]
                    first = np.uint64(at + dilation * (a[0] * slab + a[1] * wide + a[2]))
                    second = np.uint64(at + dilation * (b[0] * slab + b[1] * wide + b[2]))
                    _differences(flat, first, second, np.uint64(slab), high - low, ring[r, q])
                else:
                    ring[r, q] = 0
            y = ahead - 1
            if y < 0:
                continue
            for q in range(count):
                for x in range(n + 2):
                    column[q, x] = ring[0, q, x] + ring[1, q, x] + ring[2, q, x]
                for x in range(n):
                    sums[q, x] = (column[q, x] + column[q, x + 1] + column[q, x + 2]) * share
            for x in range(n):
                least[x] = sums[0, x]
            for q in range(1, count):
                for x in range(n):
                    least[x] = sums[q, x] if sums[q, x] < least[x] else least[x]
            for x in range(n):
                inverse[x] = np.float32(0.0)
            for q in range(count):
                for x in range(n):
                    sums[q, x] -= least[x]
                for x in range(n):
                    inverse[x] += sums[q, x]
            for x in range(n):
                inverse[x] = -one / (inverse[x] * scale + floor)
            for q in range(count):
                for x in range(n):
                    out[q, z, y, x] = sums[q, x] * inverse[x]
