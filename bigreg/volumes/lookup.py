"""What an image says at points."""

from __future__ import annotations

import numpy as np

from ..geometry import triple
from .volume import Volume

BOX = 256  # voxels along an axis of what is read at once


def lookup(image: Volume, points: np.ndarray, level: int = 0, *, outside: float = 0) -> np.ndarray:
    """(N,) values of the voxels that world points (N, 3) um lie in; `outside` elsewhere and where a point is NaN."""
    grid = image.grid(level)
    found = np.full(len(points), outside, image.dtype)
    index = np.rint(grid.world_to_index(np.where(np.isfinite(points), points, -1e12))).astype(np.int64)
    use = np.flatnonzero(((index >= 0) & (index < grid.shape)).all(1) & np.isfinite(points).all(1))
    # Box by box, so that memory does not grow with the image.
    counts = np.asarray(grid.shape) // BOX + 1
    key = np.ravel_multi_index(tuple((index[use] // BOX).T), tuple(counts))
    order = np.argsort(key, kind="stable")
    for part in np.split(use[order], np.flatnonzero(np.diff(key[order])) + 1):
        if len(part):
            low, high = index[part].min(0), index[part].max(0) + 1
            found[part] = image.read(triple(map(int, low)), triple(map(int, high)), level)[tuple((index[part] - low).T)]
    return found
