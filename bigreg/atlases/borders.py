"""Where one region ends and the next begins, as an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..volumes import Volume, create_image
from ..volumes.convert import boxes


def border_voxels(labels: np.ndarray) -> np.ndarray:
    """(z, y, x) bool: voxels whose label differs from that of the next voxel along some axis.

    So a border is one voxel thick; it is one also where a region ends at no region (label 0).
    """
    found = np.zeros(labels.shape, bool)
    for axis in range(3):
        here = [slice(None)] * 3
        there = [slice(None)] * 3
        here[axis], there[axis] = slice(0, -1), slice(1, None)
        found[tuple(here)] |= labels[tuple(here)] != labels[tuple(there)]
    return found


def write_borders(
    annotation: Volume, url: str, *, chunk: int, shard: int, progress: Callable[[int, int, str], None] | None = None
) -> None:
    """Write the borders of a label image, 1 on 0, as an OME-Zarr on the same grids.

    Each level is of that level of the annotation, as coarser means of a thin border would lose it.
    """
    grids = [level.grid for level in annotation.levels]
    writer = create_image(
        url, grids, np.uint8, name=f"borders of {annotation.name}", chunks=(chunk,) * 3, shards=(shard,) * 3,
        labels=True, orientation=annotation.orientation, finished=False,
    )  # fmt: skip
    jobs = [(level, *box) for level in range(len(grids)) for box in boxes(grids[level].shape, writer.unit(level))]
    for number, (level, start, stop) in enumerate(jobs):
        # One voxel more towards the end: the next one decides.
        more = tuple(min(b + 1, n) for b, n in zip(stop, grids[level].shape, strict=True))
        found = border_voxels(annotation.read(start, more, level))
        inner: Any = tuple(slice(0, b - a) for a, b in zip(start, stop, strict=True))
        writer.write(level, start, found[inner].astype(np.uint8))
        if progress is not None:
            progress(number + 1, len(jobs), "borders")
    writer.finish()
