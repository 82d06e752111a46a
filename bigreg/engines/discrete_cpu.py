"""The cost volume of `discrete` on a CPU core: every candidate in every cell, without an array a candidate."""

from __future__ import annotations

import numpy as np

from ..jit import compiled


@compiled
def _row(fixed, moving, mask_f, mask_m, z, y, step, cost, both):
    """cost[x], both[x] for one row of x and one candidate; 0 where a side leaves the patch."""
    channels, depth, height, n = fixed.shape
    dz, dy, dx = step[0], step[1], step[2]
    zf, yf, zm, ym = z + dz, y + dy, z - dz, y - dy
    cost[:] = 0
    both[:] = 0
    if min(zf, zm) < 0 or max(zf, zm) >= depth or min(yf, ym) < 0 or max(yf, ym) >= height:
        return
    edge = abs(dx)
    m = n - 2 * edge
    if m <= 0:
        return
    k_f, k_m = mask_f[zf, yf, edge + dx : edge + dx + m], mask_m[zm, ym, edge - dx : edge - dx + m]
    inner, seen = cost[edge : edge + m], both[edge : edge + m]
    for c in range(channels):
        f, g = fixed[c, zf, yf, edge + dx : edge + dx + m], moving[c, zm, ym, edge - dx : edge - dx + m]
        for x in range(m):
            inner[x] += (f[x] - g[x]) * (f[x] - g[x])
    share = np.float32(1.0 / channels)
    for x in range(m):
        seen[x] = k_f[x] * k_m[x]
    for x in range(m):
        inner[x] *= seen[x] * share


@compiled
def costs(fixed, moving, mask_f, mask_m, steps, samples, sums, counts):
    """Add to `sums` and `counts` (candidates, cells) squared differences and voxels of fixed (x + d), moving (x - d).

    fixed, moving (C, z, y, x); masks (z, y, x); steps (candidates, 3) voxels; samples (3,) voxels a cell.
    """
    _, depth, height, n = fixed.shape
    cost, both = np.empty(n, np.float32), np.empty(n, np.float32)
    for z in range(depth):
        for y in range(height):
            cz, cy = z // samples[0], y // samples[1]
            for k in range(steps.shape[0]):
                _row(fixed, moving, mask_f, mask_m, z, y, steps[k], cost, both)
                for x in range(n):
                    cx = x // samples[2]
                    sums[k, cz, cy, cx] += cost[x]
                    counts[k, cz, cy, cx] += both[x]
