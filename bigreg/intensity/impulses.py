"""Impulses: single voxels that lie far outside of what is around them (salt and pepper, hot and dead pixels).

Of the up to 26 neighbours of a voxel let `low` and `high` be the fourth least and the fourth largest, so that three
impulses of either kind may be among them. A voxel is an impulse where it lies further than `reach` times (high - low)
beyond them, and further than a floor; it is replaced by the median of its neighbours. At an edge, or within a bright
cell, that spread is as large as the structure, so that it stays. In Gaussian noise of SD s the spread is about 2 s.

A voxel's answer depends on its neighbours alone: any box of an image, read with a voxel more on every side, has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..jit import compiled

SURE, LIKELY = 3.0, 1.0  # reach: to say that an image has impulses; to take them out where it has
TRIMMED = 4
FEWEST = 11  # neighbours: those of a voxel at an edge of the image; a corner's 7 say too little
FLOOR = 0.2  # of the spread of an image's intensities (10th to 90th percentile): less than that is no impulse
COMMON = 1e-3
"""Share of sure impulses from which on an image has them; camera noise of 10 % makes 2e-4, heads in micro-CT 4e-4."""


@compiled
def _sorted_insert(values, count, value):
    at = count
    while at > 0 and values[at - 1] > value:
        values[at] = values[at - 1]
        at -= 1
    values[at] = value


@compiled
def _sweep(image, reach, floor, trimmed, fewest, out):
    depth, height, width = image.shape
    near = np.empty(26, image.dtype)
    found = 0
    for z in range(depth):
        z0, z1 = max(z - 1, 0), min(z + 2, depth)
        for y in range(height):
            y0, y1 = max(y - 1, 0), min(y + 2, height)
            for x in range(width):
                value = image[z, y, x]
                out[z, y, x] = value
                x0, x1 = max(x - 1, 0), min(x + 2, width)
                # Most voxels are neither among the brightest nor the darkest of their neighbours: no sorting for them.
                above, below, count = 0, 0, 0
                for k in range(z0, z1):
                    for j in range(y0, y1):
                        for i in range(x0, x1):
                            above += image[k, j, i] > value
                            below += image[k, j, i] < value
                            count += 1
                count -= 1
                if count < fewest or (above >= trimmed and below >= trimmed):
                    continue
                filled = 0
                for k in range(z0, z1):
                    for j in range(y0, y1):
                        for i in range(x0, x1):
                            if k != z or j != y or i != x:
                                _sorted_insert(near, filled, image[k, j, i])
                                filled += 1
                low, high = float(near[trimmed - 1]), float(near[count - trimmed])
                beyond = max(float(value) - high, low - float(value))
                if beyond > max(reach * (high - low), floor):
                    out[z, y, x] = near[count // 2]
                    found += 1
    return found


def without_impulses(values: np.ndarray, floor: float, *, reach: float = LIKELY) -> tuple[np.ndarray, int]:
    """(values (z, y, x) with impulses replaced, how many there were); the dtype is kept."""
    values = np.ascontiguousarray(values)
    out = np.empty_like(values)
    return out, int(_sweep(values, reach, floor, TRIMMED, FEWEST, out))


def measure_impulses(boxes: Sequence[np.ndarray]) -> tuple[float, float]:
    """(share of voxels that are impulses for sure, the floor) of an image, from some boxes of it."""
    low, high = np.percentile(np.concatenate([box.ravel() for box in boxes]), [10, 90])
    floor = FLOOR * float(high - low)
    found = sum(without_impulses(box, floor, reach=SURE)[1] for box in boxes)
    return found / sum(box.size for box in boxes), floor
