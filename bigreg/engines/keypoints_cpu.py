"""The search for points of one image in another on a CPU core: every displacement, without an array a point."""

from __future__ import annotations

import numpy as np

from ..jit import compiled


@compiled
def _costs(one, other, known, point, offsets, reach, cost):
    """cost (w, w, w), w = 2 `reach` + 1: sum of squared differences of all samples; infinite where it is not known."""
    depth, height, n = known.shape
    channels, samples = one.shape[0], offsets.shape[0]
    edge = (one.shape[1] - depth) // 2
    cost[:] = np.inf
    low, high = max(point[2] - reach, 0), min(point[2] + reach + 1, n)
    first = low - point[2] + reach
    for dz in range(-reach, reach + 1):
        z = point[0] + dz
        if z < 0 or z >= depth:
            continue
        for dy in range(-reach, reach + 1):
            y = point[1] + dy
            if y < 0 or y >= height:
                continue
            row = cost[dz + reach, dy + reach, first : first + high - low]
            for x in range(high - low):
                row[x] = np.float32(0.0)
            for s in range(samples):
                a, b, c = offsets[s, 0] + edge, offsets[s, 1] + edge, offsets[s, 2] + edge
                for k in range(channels):
                    value = one[k, point[0] + a, point[1] + b, point[2] + c]
                    line = other[k, z + a, y + b, low + c : high + c]
                    for x in range(high - low):
                        row[x] += (line[x] - value) * (line[x] - value)
            for x in range(high - low):
                if not known[z, y, low + x]:
                    row[x] = np.inf


@compiled
def _least(cost, place, apart):
    """The least cost whose place is further than `apart` from `place` along some axis; infinite: there is none."""
    w = cost.shape[0]
    least = np.float32(np.inf)
    for z in range(w):
        far_z = abs(z - place[0]) > apart
        for y in range(w):
            far = far_z or abs(y - place[1]) > apart
            for x in range(w):
                if (far or abs(x - place[2]) > apart) and cost[z, y, x] < least:
                    least = cost[z, y, x]
    return least


@compiled
def _part(before, best, after):
    """By how much, -0.5 .. 0.5, the least of a parabola through three costs lies beside the middle one."""
    bend = before + after - 2 * best
    return 0.5 * (before - after) / bend if 0 < bend < np.inf else 0.0


@compiled
def search(one, other, known, points, offsets, reach, apart, whole, exact, ratio):
    """Fill for each point the displacement (N, 3) of least cost, in whole voxels and by parabolas, and how that cost
    compares with the least one further than `apart` voxels away (N,): infinite where nothing is known, 1 where all is
    the same.

    one, other   (C, z, y, x) float32 features with as many voxels more on every side as `offsets` reach
    known        (z, y, x) where `other` is
    points       (N, 3) int64 index positions without those sides
    offsets      (S, 3) int64 of the samples
    """
    w = 2 * reach + 1
    cost = np.empty((w, w, w), np.float32)
    place = np.zeros(3, np.int64)
    for i in range(points.shape[0]):
        _costs(one, other, known, points[i], offsets, reach, cost)
        best = np.float32(np.inf)
        for z in range(w):
            for y in range(w):
                for x in range(w):
                    if cost[z, y, x] < best:
                        best = cost[z, y, x]
                        place[0], place[1], place[2] = z, y, x
        if best == np.inf:
            continue
        elsewhere = _least(cost, place, apart)
        ratio[i] = best / elsewhere if elsewhere > 0 else 1.0
        z, y, x = place
        for axis in range(3):
            whole[i, axis] = place[axis] - reach
            exact[i, axis] = whole[i, axis]
        if 0 < z < w - 1:
            exact[i, 0] += _part(cost[z - 1, y, x], best, cost[z + 1, y, x])
        if 0 < y < w - 1:
            exact[i, 1] += _part(cost[z, y - 1, x], best, cost[z, y + 1, x])
        if 0 < x < w - 1:
            exact[i, 2] += _part(cost[z, y, x - 1], best, cost[z, y, x + 1])
