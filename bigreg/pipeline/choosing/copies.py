"""A small copy of an image in memory, as a run would make it: the voxels are those of the run's own levels."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ...errors import InputError
from ...geometry import Grid, Shape, triple
from ...volumes import Volume, downsample, weighted_block_mean
from ..context.images import grid_of, made_dtype, not_finite, own_level, preparation
from ..context.masks import SEEN
from ..context.padding import padded
from ..context.weights import WHOLE

MOST_BYTES = 1 << 30
"""Of an image, that are read to look at it."""
SLAB_BYTES = 1 << 26


def unreadable(volume: Volume, factors: Shape) -> str | None:
    """Why no copy that is smaller by `factors` is made: more than MOST_BYTES would be read. None where it can be."""
    level, _ = _chain(volume, factors)
    size = math.prod(volume.grid(level).shape) * volume.dtype.itemsize
    if size <= MOST_BYTES:
        return None
    return (
        f"{volume.name} has no coarse level of its own, and {size / 1e9:.3g} GB would be read to inspect it (at most "
        f"{MOST_BYTES / 1e9:.2g} GB are); `bigreg convert` makes one"
    )


def _chain(volume: Volume, factors: Shape) -> tuple[int, list[Shape]]:
    """The level of the file to begin with, and by what it is averaged, one time after the other."""
    steps = preparation(volume, [factors])
    ratios, first = [], factors
    for number, step in enumerate(steps):
        assert step.source is not None, "without a mask a step has a source"
        ratios.append(triple(f // s for f, s in zip(step.factors, step.source, strict=True)))
        first = first if number else step.source
    level = own_level(volume, first)
    assert level is not None, "a chain begins with a level of the file"
    return level, ratios


def small_copy(
    volume: Volume, factors: Shape, *, finite: bool, padding: float | None = None
) -> tuple[np.ndarray, np.ndarray | None, Grid]:
    """Block means by `factors`: float32 (z, y, x), where they are known (None: everywhere), and their grid.

    finite: voxels that are NaN or infinite are left out. Else they raise InputError, as in a run, and so do
    images of which more than MOST_BYTES would be read. padding: the value of padding, which is left out.
    """
    if (problem := unreadable(volume, factors)) is not None:
        raise InputError(problem)
    level, ratios = _chain(volume, factors)
    shape = volume.grid(level).shape
    unit = math.prod(r[0] for r in ratios)
    plane = math.prod(shape[1:]) * volume.dtype.itemsize
    thick = max(SLAB_BYTES // (plane * unit), 1) * unit
    parts, known = [], []
    for first in range(0, shape[0] // unit * unit, thick):
        last = min(first + thick, shape[0] // unit * unit)
        data = volume.read((first, 0, 0), (last, *shape[1:]), level)
        good = np.isfinite(data) if data.dtype.kind == "f" else np.ones(data.shape, bool)
        if not good.all():
            if not finite:
                bad = np.argwhere(~good)[0] + (first, 0, 0)
                raise not_finite(volume.name, triple(int(i) for i in bad), volume.grid(level))
            data = np.where(good, data, 0)
        if padding is not None:
            good &= ~padded(partial(volume.read, level=level), shape, (first, 0, 0), (last, *shape[1:]), padding)
        counts = good.astype(np.uint8) * np.uint8(WHOLE)
        for ratio in ratios:
            data = data.astype(made_dtype(volume), copy=False)
            if good.all():
                data, counts = downsample(data, ratio), downsample(counts, ratio)
            else:
                data, counts = weighted_block_mean(data, counts, ratio)
        parts.append(data)
        known.append(counts > SEEN * WHOLE)
    seen = np.concatenate(known)
    return np.concatenate(parts).astype(np.float32), None if seen.all() else seen, grid_of(volume, factors)
