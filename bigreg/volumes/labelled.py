"""Whether an image holds labels: numbers that name regions, of which no mean may be taken."""

from __future__ import annotations

import numpy as np

from ..geometry import triple
from .volume import Volume

FEW = 256
"""As many values may labels of 8 and 16 bits have in what is looked at."""
ALIKE = 0.75
"""So large a part of neighbouring voxels in regions has one value; of images, noise sees to it that they differ."""
LOOKED = (16, 64, 64)
"""Voxels (z, y, x) of each place that is looked at, at the finest level; PLACES are their middles, as parts of it."""
STEPS, MANY = 0.7, 8
"""Where so large a part of borders are steps of 1 between MANY values or more, it is a smooth image."""
PLACES = ((0.5, 0.5, 0.5), (0.35, 0.35, 0.35), (0.65, 0.35, 0.65), (0.35, 0.65, 0.65), (0.65, 0.65, 0.35))
LEAST = 200
"""Fewer neighbours in regions say nothing."""


def looks_like_labels(volume: Volume) -> str | None:
    """Why an image is taken for labels; None where it is not. Reads a few small boxes of its finest level.

    Its metadata says so (OME-Zarr's image-label), its integers have 32 or 64 bits, or they are few and constant over
    regions. A mask of bool is none: it is interpolated and cut at a half.
    """
    if "image-label" in volume.display:
        return "its metadata states that it holds labels"
    if volume.dtype.kind not in "iu":
        return None
    if volume.dtype.itemsize >= 4:
        return f"{volume.dtype.name} numbers are taken for labels"
    values: set[int] = set()
    pairs = same = steps = 0
    for place in PLACES:
        size = np.minimum(LOOKED, volume.shape)
        start = np.clip(np.asarray(volume.shape) * place - size / 2, 0, volume.shape - size).astype(int)
        data = volume.read(triple(map(int, start)), triple(map(int, start + size)))
        values.update(np.unique(data).tolist())
        if len(values) > FEW:
            return None
        for axis in range(3):
            here, there = np.moveaxis(data, axis, 0)[:-1], np.moveaxis(data, axis, 0)[1:]
            some = (here != 0) | (there != 0)
            pairs += int(some.sum())
            same += int((here == there)[some].sum())
            steps += int((np.maximum(here, there) - np.minimum(here, there) == 1).sum())
    if pairs < LEAST or same < ALIKE * pairs:
        return None
    if len(values) >= MANY and steps > STEPS * (pairs - same):
        return None
    return f"its {len(values)} values, constant over regions, are taken for labels"
