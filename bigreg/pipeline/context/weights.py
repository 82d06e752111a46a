"""How much of each voxel of an image lies inside its mask, at every resolution that is compared.

A level of the image's own is used up to the finest resolution that is compared: there a voxel counts only if the mask
holds all of it. Coarser levels are made by the run as means over what counts, weighted; so nothing that a mask leaves
out is in any value that is compared, however coarse the level. Padding is seen in every level of the image's own.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ... import storage
from ...geometry import Grid, Shape
from ..store.store import RunStore
from .despeckled import Readable
from .masks import SEEN, Mask, SourceMask
from .padding import padded

WHOLE = 128
"""The weight of a voxel that is inside as a whole; a power of two, so that means over blocks of 2^n are exact."""
BLOCK = 256
"""Voxels along an axis of a chunk of the weights of an image's own level."""


def place(which: str, factors: Shape) -> tuple[str, str, str]:
    return "masks", which, "x".join(str(f) for f in factors)


def create(store: RunStore, which: str, factors: Shape, shape: Shape, chunks: Shape) -> None:
    parts = place(which, factors)
    for depth in (1, 2):
        storage.create_group(store.path(*parts[:depth]), exist_ok=True)
    storage.create_array(store.path(*parts), shape=shape, dtype="uint8", chunks=chunks, exist_ok=True)


class Weights:
    """The weights of one level: `read(start, stop)` gives uint8 (z, y, x) from 0 to WHOLE.

    level   the number of the image's own level that this is; None: the run has made it
    """

    def __init__(
        self, store: RunStore, volume: Readable, factors: Shape, grid: Grid, mask: SourceMask, level: int | None
    ) -> None:
        self._store, self._place = store, place(volume.name, factors)
        self._volume, self._mask, self._level, self.grid = volume, mask, level, grid

    @cached_property
    def _array(self) -> storage.Array | None:
        """None: a level that is shown and not compared, of which nothing is kept."""
        if self._level is not None and not storage.exists(self._store.path(*self._place)):
            return None
        return self._store.array(*self._place, constant=True)

    def read(self, start: Shape, stop: Shape) -> np.ndarray:
        return self.found(start, stop) if self._array is None else self._array.read(start, stop)

    def found(self, start: Shape, stop: Shape) -> np.ndarray:
        """Those of a level of the image's own, from the mask itself."""
        if self._mask.padding is not None:
            inside = ~padded(self._values, self.grid.shape, start, stop, self._mask.padding)
        elif self._mask.finite:
            inside = np.isfinite(self._values(start, stop))
        else:
            inside = self._mask.covers(self.grid.cropped(start, stop))
        return inside.astype(np.uint8) * np.uint8(WHOLE)

    def _values(self, start: Shape, stop: Shape) -> np.ndarray:
        assert self._level is not None, "what the voxels themselves say is asked of a level of the image's own"
        return self._volume.read(start, stop, self._level)

    def shares(self, start: Shape, stop: Shape) -> np.ndarray:
        """float32 0 .. 1."""
        return self.read(start, stop).astype(np.float32) / np.float32(WHOLE)

    def counted(self, start: Shape, stop: Shape) -> np.ndarray:
        """(z, y, x) bool: the voxels that are compared, those with at least half of their weight."""
        return self.shares(start, stop) > SEEN

    def mask(self) -> Mask:
        return Mask(self.grid, self.shares)
