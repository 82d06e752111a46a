"""Stripes: what is dimmer or brighter along whole lines (shadows of a light sheet) or planes (single slices)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def stripe_profile(
    values: np.ndarray, along: Sequence[int], across: int, width: int, segment: Sequence[int], floor: float
) -> np.ndarray:
    """Logarithm of the stripes' gain: (z, y, x) with the axes `along` cut into segments.

    values    (z, y, x), with `width` - 1 voxels more at either end of `across`, which the answer lacks
    along     the axes that a stripe runs along; across: the one that it is compared across
    width     odd; what is as wide as this across, in voxels, is no stripe
    segment   voxels of a segment along each axis (1 where not `along`): a stripe is constant there, and what covers
              less than half of it (a cell) is not taken for one
    floor     added to the values, so that nothing is made of nothing
    Background, where the median is below `floor`, has no stripes.
    """
    logs = np.log(np.maximum(values, 0) + floor)
    size = [1, 1, 1]
    size[across] = width
    half = width // 2
    kept = [slice(None)] * 3
    kept[across] = slice(2 * half, values.shape[across] - 2 * half)
    inner = tuple(kept)
    # The median does not see an edge of the tissue; smoothed, it does not follow the stripes either.
    nearby = ndimage.median_filter(logs, size=size, mode="nearest")
    off = (logs - ndimage.gaussian_filter1d(nearby, width / 4, across, mode="nearest", radius=half))[inner]
    bright = values[inner] > floor
    counts = [-(-n // s) for n, s in zip(off.shape, segment, strict=True)]
    out = np.zeros(counts, np.float32)
    axes = tuple(along)
    for index in np.ndindex(*(counts[a] for a in axes)):
        box, put = [slice(None)] * 3, [slice(None)] * 3
        for a, i in zip(axes, index, strict=True):
            box[a], put[a] = slice(i * segment[a], (i + 1) * segment[a]), slice(i, i + 1)
        part = np.median(off[tuple(box)], axis=axes, keepdims=True)
        seen = bright[tuple(box)].mean(axis=axes, keepdims=True) > 0.5
        out[tuple(put)] = np.where(seen, part, 0)
    return out
