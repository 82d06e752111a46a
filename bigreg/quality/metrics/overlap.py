"""How well labelled regions of two images lie on one another: by voxels that add up, and by distances of surfaces.

A label's surface is its voxels with one of their six neighbours outside of the label; the border of an image, and of
what is known, is none. Distances are between voxel centres, exact while the surfaces of all labels together have at
most BUDGET voxels an image. Beyond that, a large label keeps one surface voxel in each cube of 2, 4, ... voxels, the
first in C order; the answer is the same for any blocks, and `step` says how wide the cubes are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import numpy as np
from scipy.spatial import cKDTree

BUDGET = 8_000_000
"""Surface voxels that are kept of one image."""


def _no_ids() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """Voxels of each label in a first image, in a second, and in both. `a + b` is that of both sets of voxels.

    ids     (N,) the labels but 0, ascending; first, second, both: (N,) voxels
    """

    ids: np.ndarray = dataclass_field(default_factory=_no_ids)
    first: np.ndarray = dataclass_field(default_factory=_no_ids)
    second: np.ndarray = dataclass_field(default_factory=_no_ids)
    both: np.ndarray = dataclass_field(default_factory=_no_ids)

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, known: np.ndarray | None = None) -> LabelCounts:
        """Counts over the voxels where `known` is true (default all) of two label images of one shape."""
        if first.shape != second.shape:
            raise ValueError(f"label images have shapes {first.shape} and {second.shape}; need one")
        if known is not None:
            first, second = first[known], second[known]
        found = [np.unique(v[v != 0], return_counts=True) for v in (first, second, first[first == second])]
        ids = np.unique(np.concatenate([labels.astype(np.int64) for labels, _ in found]))
        return cls(ids, *(_placed(ids, labels, counts) for labels, counts in found))

    def __add__(self, other: LabelCounts) -> LabelCounts:
        ids = np.union1d(self.ids, other.ids)
        parts = (
            _placed(ids, self.ids, a) + _placed(ids, other.ids, b)
            for a, b in ((self.first, other.first), (self.second, other.second), (self.both, other.both))
        )
        return LabelCounts(ids, *parts)

    @property
    def dice(self) -> np.ndarray:
        """(N,) 2 |A and B| / (|A| + |B|)."""
        return 2.0 * self.both / (self.first + self.second)

    @property
    def jaccard(self) -> np.ndarray:
        """(N,) |A and B| / |A or B|."""
        return self.both / (self.first + self.second - self.both)


def _placed(ids: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    out = np.zeros(len(ids), np.int64)
    out[np.searchsorted(ids, labels.astype(np.int64))] = counts
    return out


def surface(labels: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """(z, y, x) bool: voxels of a label other than 0 beside a voxel, known like themselves, that has another label."""
    found = np.zeros(labels.shape, bool)
    for axis in range(3):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        change = labels[low] != labels[high]
        if known is not None:
            change &= known[low] & known[high]
        found[low] |= change
        found[high] |= change
    return found & (labels != 0)


class SurfacePoints:
    """Surface voxels of every label of an image, gathered block by block; about `budget` of them at most."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self._parts: dict[int, list[np.ndarray]] = {}
        self._counts: dict[int, int] = {}
        self._steps: dict[int, int] = {}

    def add(
        self,
        labels: np.ndarray,
        start: tuple[int, ...],
        core: tuple[slice, ...],
        known: np.ndarray | None = None,
    ) -> None:
        """Take in the surface in `core` of a box of labels that begins at voxel `start`.

        The box must reach one voxel beyond `core` wherever the image does.
        """
        mask = np.zeros(labels.shape, bool)
        mask[core] = surface(labels, known)[core]
        values = labels[mask]
        order = np.argsort(values, kind="stable")
        index, values = (np.argwhere(mask) + start)[order].astype(np.int32), values[order]
        for part in np.split(np.arange(len(values)), np.flatnonzero(np.diff(values)) + 1) if len(values) else ():
            label = int(values[part[0]])
            self._parts.setdefault(label, []).append(index[part])
            self._counts[label] = self._counts.get(label, 0) + len(part)
            if self._counts[label] > 2 * self._most:
                self._thin(label)

    @property
    def _most(self) -> int:
        """Points of one label. It only shrinks as labels come in, so the end is the same whatever the order."""
        return max(self.budget // max(len(self._parts), 1), 1)

    def _thin(self, label: int) -> None:
        points, step = np.concatenate(self._parts[label]), self._steps.get(label, 1)
        points = _one_a_cube(points, step)
        while len(points) > self._most:
            step *= 2
            points = _one_a_cube(points, step)
        self._parts[label], self._counts[label], self._steps[label] = [points], len(points), step

    def of(self, label: int) -> tuple[np.ndarray, int]:
        """(N, 3) voxel indices in C order, and the width in voxels of the cubes of which one is kept; 1: all are."""
        if label not in self._parts:
            return np.zeros((0, 3), np.int32), 1
        self._thin(label)
        return self._parts[label][0], self._steps[label]


def _one_a_cube(points: np.ndarray, step: int) -> np.ndarray:
    points = points[np.lexsort(points.T[::-1])]
    _, first = np.unique(points // step, axis=0, return_index=True)
    return points[np.sort(first)]


@dataclass(frozen=True)
class SurfaceDistance:
    """Distances (um) between two surfaces, both ways; `step` is the coarser of the two sets' (see SurfacePoints).

    mean    over all surface voxels of both; hd95: the larger of both directions' 95th percentiles; maximum: Hausdorff
    """

    mean: float
    hd95: float
    maximum: float
    step: int = 1


def surface_distance(first: np.ndarray, second: np.ndarray, linear: np.ndarray, step: int = 1) -> SurfaceDistance:
    """Distance of two sets (N, 3) of voxel indices; `linear` (3, 3) takes an index step to um. NaN for an empty set."""
    if not len(first) or not len(second):
        return SurfaceDistance(math.nan, math.nan, math.nan, step)
    a, b = (points.astype(float) @ np.asarray(linear).T for points in (first, second))
    there, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    mean = (there.sum() + back.sum()) / (len(there) + len(back))
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return SurfaceDistance(float(mean), float(hd95), float(max(there.max(), back.max())), step)
