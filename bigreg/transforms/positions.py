"""Many points of one neighbourhood, precise wherever in the world it lies.

A terabyte volume reaches 10^5 um, where float32 resolves 0.01 um; points of a block are therefore kept as a float64
anchor and float32 offsets from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry import Grid, triple
from .field import sample

Read = Callable[[tuple[int, int, int], tuple[int, int, int]], np.ndarray]


@dataclass(frozen=True)
class Positions:
    """World points (um, z y x): `anchor` (3,) float64 plus `offset` (3, ...) float32."""

    anchor: np.ndarray
    offset: torch.Tensor

    @classmethod
    def of_grid(cls, grid: Grid, device: torch.device | str = "cpu") -> Positions:
        """The samples of a grid, (3, z, y, x)."""
        linear = grid.affine[:3, :3]
        axes = [torch.arange(n, dtype=torch.float32, device=device) for n in grid.shape]
        offset = torch.zeros(3, *grid.shape, dtype=torch.float32, device=device)
        for i in range(3):
            for j in range(3):
                if linear[i, j] != 0.0:
                    line = axes[j] * float(linear[i, j])
                    offset[i] += line.reshape([-1 if a == j else 1 for a in range(3)])
        return cls(np.asarray(grid.origin), offset)

    @classmethod
    def of_points(cls, points: np.ndarray, device: torch.device | str = "cpu") -> Positions:
        """(N, 3) world points as (3, N) positions."""
        points = np.asarray(points, dtype=float)
        anchor = points.mean(0) if len(points) else np.zeros(3)
        return cls(anchor, torch.as_tensor((points - anchor).T.astype(np.float32), device=device))

    def points(self) -> np.ndarray:
        """(N, 3) float64 world points."""
        points: np.ndarray = self.offset.reshape(3, -1).T.double().cpu().numpy() + self.anchor
        return points

    def taken(self, rows: np.ndarray) -> Positions:
        """Some of the points, by their rows in `points`: (3, n)."""
        return Positions(self.anchor, self.offset.reshape(3, -1)[:, torch.as_tensor(rows, device=self.offset.device)])

    def through(self, matrix: np.ndarray) -> Positions:
        """The points after a 4 x 4 affine."""
        anchor = matrix[:3, :3] @ self.anchor + matrix[:3, 3]
        if np.array_equal(matrix[:3, :3], np.eye(3)):
            return Positions(anchor, self.offset)
        linear = torch.as_tensor(matrix[:3, :3], dtype=self.offset.dtype, device=self.offset.device)
        return Positions(anchor, (linear @ self.offset.reshape(3, -1)).reshape(self.offset.shape))

    def moved(self, displacement: torch.Tensor) -> Positions:
        """The points plus a displacement (um) of the same shape."""
        return Positions(self.anchor, self.offset + displacement)

    def index(self, grid: Grid) -> Positions:
        """The index positions in a grid (anchor and offset in voxels)."""
        return self.through(grid.inverse)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest coordinates, (3,) each. Needs at least one point."""
        flat = self.offset.reshape(3, -1)
        low, high = torch.stack((flat.amin(1), flat.amax(1))).double().cpu().numpy()  # one wait for the device
        return self.anchor + low, self.anchor + high

    def inside(self, grid: Grid, margin: float = 0.5) -> torch.Tensor:
        """(...) bool: within `margin` voxels of the outer voxel centres of a grid (0.5 = inside its faces)."""
        index = self.index(grid)
        result = torch.ones(self.offset.shape[1:], dtype=torch.bool, device=self.offset.device)
        for axis, n in enumerate(grid.shape):
            place = index.offset[axis] + float(index.anchor[axis])
            # A little slack: a point on the very face must not depend on rounding.
            result &= (place >= -margin - 1e-3) & (place <= n - 1 + margin + 1e-3)
        return result

    def sample(self, read: Read, grid: Grid, mode: str = "linear") -> torch.Tensor:
        """Stored values at the points: (C, ...). Reads only the box that the points fall in; border values beyond.

        read   (start, stop) -> ndarray (C, z, y, x) or (z, y, x) of the array that is sampled on `grid`
        """
        index = self.index(grid)
        reach = 2 if mode == "cubic" else 1
        low, high = index.bounds()
        last = np.asarray(grid.shape) - 1
        start = np.clip(np.floor(low).astype(np.int64) - (reach - 1), 0, last)
        stop = np.clip(np.ceil(high).astype(np.int64) + (reach - 1), start, last) + 1
        data = read(triple(int(v) for v in start), triple(int(v) for v in stop))
        values = torch.as_tensor(np.ascontiguousarray(data, dtype=np.float32), device=self.offset.device)
        if values.ndim == 3:
            values = values[None]
        shift = torch.as_tensor(index.anchor - start, dtype=torch.float32, device=self.offset.device)
        return sample(values, index.offset + shift.reshape(3, *[1] * (index.offset.ndim - 1)), mode)
