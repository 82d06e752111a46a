"""Sampled spaces: which index lies where in the world.

World coordinates are micrometres in axis order (z, y, x). An index names a voxel *centre*: index 0 is the centre of
the first voxel, so a volume of n voxels reaches from index -0.5 to n - 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

Vector = tuple[float, float, float]
Shape = tuple[int, int, int]
Integers = Sequence[int] | np.ndarray
Numbers = Sequence[float] | np.ndarray
T = TypeVar("T")


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Three `values` in axis order (z, y, x), as a tuple. Raises ValueError where there are more or fewer."""
    found = tuple(values)
    if len(found) != 3:
        raise ValueError(f"{found} must be three values (z, y, x)")
    return found[0], found[1], found[2]


@dataclass(frozen=True)
class Grid:
    """A sampled 3-D space: `shape` in voxels (z, y, x) and the affine that takes an index to the world (um).

    `matrix` is the 3 x 4 affine as nested tuples (hashable, JSON-able): world = matrix[:, :3] @ index + matrix[:, 3].
    """

    shape: Shape
    matrix: tuple[tuple[float, float, float, float], ...]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"grid shape {self.shape} must be three positive numbers (z, y, x)")
        matrix = np.asarray(self.matrix, dtype=float)
        if matrix.shape == (4, 4):
            matrix = matrix[:3]
        if matrix.shape != (3, 4) or not np.isfinite(matrix).all():
            raise ValueError(f"grid matrix must be a finite 3 x 4 affine, got {self.matrix}")
        if abs(np.linalg.det(matrix[:, :3])) < 1e-30:
            raise ValueError(f"grid matrix is singular: {self.matrix}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "matrix", tuple(tuple(float(v) for v in row) for row in matrix))

    @classmethod
    def from_spacing(cls, shape: Integers, spacing: Numbers, origin: Numbers = (0, 0, 0)) -> Grid:
        """Axis-aligned grid: `spacing` (um, z y x) between voxel centres, `origin` the world place of index 0."""
        step = np.asarray(spacing, dtype=float)
        if step.shape != (3,) or not (np.isfinite(step) & (step > 0)).all():
            raise ValueError(f"spacing must be three positive numbers in µm (z, y, x), got {tuple(step)}")
        return cls._of(shape, np.column_stack([np.diag(step), np.asarray(origin, dtype=float)]))

    @classmethod
    def _of(cls, shape: Integers, matrix: np.ndarray) -> Grid:
        """The grid of arrays; the constructor checks what they hold."""
        return cls(tuple(np.asarray(shape).tolist()), tuple(map(tuple, matrix[:3])))

    @cached_property
    def affine(self) -> np.ndarray:
        """Index to world as a 4 x 4 float64 array."""
        return np.vstack([np.asarray(self.matrix), [0.0, 0.0, 0.0, 1.0]])

    @cached_property
    def inverse(self) -> np.ndarray:
        """World to index as a 4 x 4 float64 array."""
        return np.linalg.inv(self.affine)

    @property
    def spacing(self) -> Vector:
        """Distance between neighbouring voxel centres along each index axis, um."""
        return triple(float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def origin(self) -> Vector:
        """World place of index (0, 0, 0), um."""
        return triple(float(v) for v in self.affine[:3, 3])

    @property
    def is_axis_aligned(self) -> bool:
        """True where every index axis runs along its own world axis in the positive direction."""
        return bool(np.allclose(self.affine[:3, :3], np.diag(self.spacing), rtol=1e-9, atol=1e-9))

    @property
    def voxels(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def index_to_world(self, index: np.ndarray) -> np.ndarray:
        """(N, 3) index positions to (N, 3) world points, um."""
        points: np.ndarray = np.asarray(index, dtype=float) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points

    def world_to_index(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) world points (um) to (N, 3) fractional index positions."""
        index: np.ndarray = np.asarray(points, dtype=float) @ self.inverse[:3, :3].T + self.inverse[:3, 3]
        return index

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N,) bool: which world points lie inside the volume, its outer half voxels included."""
        index = self.world_to_index(points)
        # A millionth of a voxel of slack: a point on the very face must not depend on rounding.
        inside: np.ndarray = np.all((index >= -0.5 - 1e-6) & (index <= np.asarray(self.shape) - 0.5 + 1e-6), axis=-1)
        return inside

    def corners(self, *, faces: bool = False) -> np.ndarray:
        """(8, 3) world places of the corner voxel centres, or with `faces` of the volume's outer corners."""
        pad = 0.5 if faces else 0.0
        ends = [(-pad, n - 1 + pad) for n in self.shape]
        return self.index_to_world(np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T)

    def bounds(self, matrix: np.ndarray | None = None, *, faces: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner of the world box around the grid, optionally after a 4 x 4 world affine."""
        corners = self.corners(faces=faces)
        if matrix is not None:
            corners = corners @ matrix[:3, :3].T + matrix[:3, 3]
        return corners.min(0), corners.max(0)

    def downsampled(self, factors: Integers) -> Grid:
        """The grid of block means over `factors` voxels (z, y, x): spacing times f, centres moved by (f - 1) / 2.

        A remainder that does not fill a block is left out, so that every mean stands exactly at its voxel's centre.
        """
        by = np.asarray(factors, dtype=int)
        if (by < 1).any() or (by > np.asarray(self.shape)).any():
            raise ValueError(f"cannot downsample shape {self.shape} by {tuple(by)}")
        matrix = self.affine.copy()
        matrix[:3, 3] = self.index_to_world((by - 1) / 2)
        matrix[:3, :3] = self.affine[:3, :3] * by
        return self._of(np.asarray(self.shape) // by, matrix)

    def resampled(self, spacing: Numbers) -> Grid:
        """A grid over the same box, same direction, with about the given spacing (um): first and last faces agree."""
        old = np.asarray(self.spacing)
        extent = old * self.shape
        shape = np.maximum(np.round(extent / np.asarray(spacing, dtype=float)), 1).astype(int)
        step = extent / shape / old  # new voxel size in old voxels
        matrix = self.affine.copy()
        matrix[:3, 3] = self.index_to_world((step - 1) / 2)
        matrix[:3, :3] = self.affine[:3, :3] * step
        return self._of(shape, matrix)

    def cropped(self, start: Integers, stop: Integers) -> Grid:
        """The part of the grid from index `start` up to but not including `stop`."""
        first, end = np.asarray(start, dtype=int), np.asarray(stop, dtype=int)
        matrix = self.affine.copy()
        matrix[:3, 3] = self.index_to_world(first)
        return self._of(end - first, matrix)

    def transformed(self, matrix: np.ndarray) -> Grid:
        """The same samples seen in another world: `matrix` (4 x 4) takes this world to the other."""
        return self._of(self.shape, np.asarray(matrix, dtype=float) @ self.affine)

    def to_json(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "matrix": [list(row) for row in self.matrix]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Grid:
        return cls(tuple(data["shape"]), data["matrix"])
