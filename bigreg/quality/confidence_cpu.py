"""Sums over tiles of two images, one of them moved by every step of a window: the costly part of the confidence."""

from __future__ import annotations

import numpy as np

from ..jit import compiled


@compiled
def step_sums(fixed, known, moving, moving_known, first, out):
    """Fill (steps, 6, tiles z, y, x) float32 with the sums over tiles of w, wa, wb, waa, wbb, wab.

    With room for 9 also of waaa, waaaa and waab. The steps are those from number `first` on, as many as there is room.

    fixed, known           (z, y, x) float32 a and its weight, whole tiles
    moving, moving_known   the same of b, with as many voxels more on every side as a step may be long
    w is the product of both weights, 0 or 1; the steps are in C order of (z, y, x).
    """
    depth, width = fixed.shape[0], fixed.shape[2]
    reach = (moving.shape[0] - depth) // 2
    span = 2 * reach + 1
    tall, high, wide = out.shape[2:]
    edge = depth // tall
    kinds = out.shape[1]
    sums = np.empty((9, width), np.float32)
    for place in range(out.shape[0]):
        step = first + place
        dz, dy, dx = step // (span * span), step // span % span, step % span
        for i in range(tall):
            for j in range(high):
                sums[:] = np.float32(0.0)
                for row in range(edge * edge):
                    z, y = i * edge + row // edge, j * edge + row % edge
                    f, k = fixed[z, y], known[z, y]
                    m, mk = moving[z + dz, y + dy], moving_known[z + dz, y + dy]
                    if kinds == 6:
                        for x in range(width):
                            w = k[x] * mk[x + dx]
                            a, b = f[x] * w, m[x + dx] * w
                            sums[0, x] += w
                            sums[1, x] += a
                            sums[2, x] += b
                            sums[3, x] += a * a
                            sums[4, x] += b * b
                            sums[5, x] += a * b
                    else:
                        for x in range(width):
                            w = k[x] * mk[x + dx]
                            a, b = f[x] * w, m[x + dx] * w
                            aa = a * a
                            sums[0, x] += w
                            sums[1, x] += a
                            sums[2, x] += b
                            sums[3, x] += aa
                            sums[4, x] += b * b
                            sums[5, x] += a * b
                            sums[6, x] += aa * a
                            sums[7, x] += aa * aa
                            sums[8, x] += aa * b
                for kind in range(kinds):
                    for t in range(wide):
                        total = np.float32(0.0)
                        for x in range(t * edge, (t + 1) * edge):
                            total += sums[kind, x]
                        out[place, kind, i, j, t] = total
