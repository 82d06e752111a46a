"""Label images as they are compared: of each common label how much of a place it fills, a little smoothed.

Coarser levels are made by the run, of the commonest label of each block. Where a label image ends nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ...errors import InputError
from ...geometry import Grid, Shape, triple
from ...volumes import ImageSpec, Volume
from ...volumes.volume import Level
from .images import LevelImage
from .masks import lying, require_overlap

MOST = 14
"""Labels that are compared: the commonest of those that both images hold."""
SIGMA = 1.5
"""Voxels of a level: SD by which labels are smoothed, whatever the voxels of their image are."""
LEAST_SIGMA, REACH = 0.5, 3.3
"""Voxels of a label image: SD at least; and SDs that smoothing looks."""
UNIT = 4.0
"""Weight of labels that count as images do, in units of half their squared difference."""


class LabelVolume:
    """The finest level of a label image, on the grid that it has in the world of its side."""

    def __init__(self, volume: Volume, name: str, grid: Grid) -> None:
        self.volume, self.name, self.shape, self.chunks = volume, name, volume.shape, volume.chunks
        self.dtype = volume.dtype if volume.dtype.kind in "iu" else np.dtype("int32")
        self.orientation = volume.orientation
        self.levels = (Level(grid, (1.0, 1.0, 1.0)),)

    @property
    def spec(self) -> ImageSpec | None:
        return self.volume.spec

    @property
    def understood(self) -> dict[str, Any]:
        return self.volume.understood

    def identity(self) -> dict[str, Any]:
        return {**self.volume.identity(), "grid": self.grid().to_json()}

    def grid(self, level: int = 0) -> Grid:
        return self.levels[level].grid

    def read(self, start: Shape, stop: Shape, level: int = 0) -> np.ndarray:
        """Labels (z, y, x), whole numbers. Raises InputError for others."""
        values = self.volume.read(start, stop)
        if values.dtype == self.dtype:
            return values
        whole = values.astype(self.dtype)
        if not np.array_equal(whole, values):
            raise InputError(f"{self.name} '{self.volume.settings.path}' holds no labels: not all are whole numbers")
        return whole


def given_labels(path: str, name: str, image: Volume) -> LabelVolume:
    """A label image for one image. Raises InputError where it cannot be read or lies elsewhere."""
    there, grid = lying(path, name, image)
    require_overlap(f"{name} '{path}'", grid, image)
    return LabelVolume(there, name, grid)


@dataclass(frozen=True)
class CommonLabels:
    """The labels that are compared, and their weights, of mean 1: as one over the root of how common they are."""

    values: tuple[int, ...]
    weights: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {"values": list(self.values), "weights": list(self.weights)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CommonLabels:
        return cls(tuple(data["values"]), tuple(data["weights"]))

    @classmethod
    def of(cls, fixed: np.ndarray, moving: np.ndarray) -> CommonLabels:
        """Of two label images (z, y, x). Raises InputError where they have none in common."""
        shares = []
        for labels in (fixed, moving):
            values, counts = np.unique(labels[labels > 0], return_counts=True)
            shares.append(dict(zip(values.tolist(), (counts / labels.size).tolist(), strict=True)))
        common = {v: (shares[0][v] * shares[1][v]) ** 0.5 for v in shares[0] if v in shares[1]}
        if not common:
            shown = [", ".join(map(str, list(s)[:8])) or "none" for s in shares]
            raise InputError(f"the label images have no label in common: fixed has {shown[0]}, moving {shown[1]}")
        chosen = sorted(common, key=lambda v: (-common[v], v))[:MOST]
        weights = np.array([common[v] ** -0.5 for v in chosen])
        return cls(tuple(chosen), tuple((weights / weights.mean()).tolist()))


class OneHots:
    """A label image at one resolution: `read` gives float32 (labels, z, y, x), each 0 .. the root of its weight.

    spacing   um along the index axes: voxels of the level that compares it
    """

    def __init__(self, image: LevelImage, labels: CommonLabels, spacing: np.ndarray) -> None:
        self.image, self.grid, self.labels = image, image.grid, labels
        # Voxels blur by themselves, by half an edge (SD): what is coarser is smoothed less.
        own = np.asarray(image.grid.spacing)
        variance = (SIGMA**2 + 0.25) * np.square(spacing) - 0.25 * np.square(own)
        self.sigma = np.maximum(np.sqrt(np.maximum(variance, 0.0)) / own, LEAST_SIGMA)
        self.reach = triple(int(n) for n in np.ceil(REACH * self.sigma))

    def read(self, start: Shape, stop: Shape) -> np.ndarray:
        low = triple(max(a - r, 0) for a, r in zip(start, self.reach, strict=True))
        high = triple(min(b + r, n) for b, r, n in zip(stop, self.reach, self.grid.shape, strict=True))
        inner = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))
        values = self.image.read(low, high)
        return np.stack([
            np.float32(weight**0.5) * self._smoothed((values == label).astype(np.float32))[inner]
            for label, weight in zip(self.labels.values, self.labels.weights, strict=True)
        ])  # fmt: skip

    def _smoothed(self, values: np.ndarray) -> np.ndarray:
        """(z, y, x) float32; beyond the border as at it."""
        found: np.ndarray = ndimage.gaussian_filter(values, self.sigma, mode="nearest", radius=self.reach)
        return found
