"""Histograms of tiles, made in one pass: they add up to that of the image, and know what lies where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..geometry import Grid, Shape, triple

BINS = 1024
MOST = 24
"""Tiles along the longest axis, at most: all histograms together are held in memory (57 MB)."""
DYNAMIC = 1000.0


@dataclass(frozen=True)
class Bins:
    """Bins of a histogram, even near `low` and a constant ratio wide (about 1 %) far above it.

    low    values below are counted in the first bin
    scale  where bins turn from even to relative; the last bin ends at 10^4 of it
    """

    low: float
    scale: float

    @classmethod
    def of(cls, values: np.ndarray) -> Bins:
        """Bins for an image, from some of its values; a voxel may be ten times as bright as they are."""
        low, high = (float(v) for v in (np.min(values), np.percentile(values, 99.9)))
        return cls(low, max(high - low, 1e-30) / DYNAMIC)

    @property
    def _top(self) -> float:
        return float(np.arcsinh(10.0 * DYNAMIC))

    def place(self, values: np.ndarray) -> np.ndarray:
        """Which bin, fractional: bin i is i - 0.5 .. i + 0.5."""
        return np.arcsinh(np.maximum(values - self.low, 0) / self.scale) * (BINS / self._top) - 0.5

    @property
    def centres(self) -> np.ndarray:
        return self.low + self.scale * np.sinh((np.arange(BINS) + 0.5) * (self._top / BINS))

    def counts(self, values: np.ndarray) -> np.ndarray:
        """(BINS,) how many values fall into each."""
        place = np.clip(np.rint(self.place(values.astype(np.float64))), 0, BINS - 1).astype(np.int64)
        return np.bincount(place.ravel(), minlength=BINS)


@dataclass(frozen=True)
class Tiles:
    """A partition of an image's grid into tiles of `size` voxels, the last along an axis perhaps smaller."""

    grid: Grid
    size: Shape

    @classmethod
    def of(cls, grid: Grid, length_um: float) -> Tiles:
        """Tiles of about a length, but no more of them than MOST along the longest axis."""
        spacing = np.asarray(grid.spacing)
        length = max(length_um, float((spacing * grid.shape).max()) / MOST)
        return cls(grid, triple(int(n) for n in np.clip(np.rint(length / spacing), 1, grid.shape)))

    @property
    def counts(self) -> Shape:
        return triple(-(-n // s) for n, s in zip(self.grid.shape, self.size, strict=True))

    @property
    def spacing(self) -> np.ndarray:
        """um between tiles."""
        return np.multiply(self.grid.spacing, self.size)

    def box(self, index: Sequence[int]) -> tuple[Shape, Shape]:
        """Start and stop of a tile in voxels."""
        start = triple(i * s for i, s in zip(index, self.size, strict=True))
        return start, triple(min(a + s, n) for a, s, n in zip(start, self.size, self.grid.shape, strict=True))

    def places(self, grid: Grid, start: Shape, stop: Shape) -> list[np.ndarray]:
        """Where the voxels of a box of a grid over the same image lie between the tiles' centres, an array an axis.

        The grid runs along the same axes as that of the tiles, as any level of one image does.
        """
        ratio = np.divide(grid.spacing, self.grid.spacing)
        offset = self.grid.world_to_index(np.asarray([grid.origin]))[0]
        return [
            (offset[a] + ratio[a] * np.arange(start[a], stop[a]) - (self.size[a] - 1) / 2) / self.size[a]
            for a in range(3)
        ]
