"""What a slice of the viewer shows of a run: planes of its images and field at the resolution of the screen. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from bigreg.geometry import Grid

PIXELS = 1400
"""Along the longer edge of a plane: about a screen."""


@dataclass(frozen=True)
class Plane:
    """A slice across world axis `axis` (0 z, 1 y, 2 x) at `at` um; `centre` um and `pixel` um of what is seen of it."""

    axis: int
    at: float
    centre: tuple[float, float, float]
    pixel: float

    @property
    def shown(self) -> tuple[int, int]:
        """The world axes that run down and to the right."""
        down, right = (a for a in range(3) if a != self.axis)
        return down, right


def level_for(pyramid: Sequence[Any], pixel: float) -> int:
    """The coarsest level whose voxels are no larger than 1.5 pixels (um)."""
    fit = [n for n, level in enumerate(pyramid) if min(sorted(level.grid.spacing)[-2:]) <= 1.5 * pixel]
    return fit[-1] if fit else 0


def plane_grid(grid: Grid, plane: Plane, thickness: int = 0) -> Grid:
    """The part of an image's grid that a plane shows, with `thickness` voxels on either side of it, along the world's
    axes. Where the image lies oblique, a grid of its finest spacing over what it covers is taken in its place."""
    if not grid.is_axis_aligned:
        low, high = grid.bounds(faces=True)
        spacing = min(grid.spacing)
        grid = Grid.from_spacing(np.maximum((high - low) // spacing, 1).astype(int), (spacing,) * 3, low + spacing / 2)
    point = np.asarray(plane.centre, dtype=float)
    point[plane.axis] = plane.at
    index = np.rint(grid.world_to_index(point[None])[0]).astype(int)
    reach = np.ceil(PIXELS / 2 * plane.pixel / np.asarray(grid.spacing)).astype(int)
    last = np.asarray(grid.shape)
    start, stop = index - reach, index + reach + 1
    start[plane.axis], stop[plane.axis] = index[plane.axis] - thickness, index[plane.axis] + thickness + 1
    start = np.clip(start, 0, last - 1)
    return grid.cropped(start, np.clip(stop, start + 1, last))


def sampled(pyramid: Sequence[Any], grid: Grid) -> np.ndarray:
    """What a pyramid says at the samples of a grid along the world's axes, float32; linear, 0 outside. A vector field
    has its components first."""
    wanted = float(np.prod(grid.spacing)) * 1.03
    fine = [level for level in pyramid if float(np.prod(level.grid.spacing)) <= wanted]
    level = fine[-1] if fine else pyramid[0]
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    if level.grid.is_axis_aligned:
        first = level.grid.world_to_index(np.asarray(grid.origin)[None])[0]
        places = first + index * (np.asarray(grid.spacing) / np.asarray(level.grid.spacing))
    else:
        places = level.grid.world_to_index(grid.index_to_world(index))
    shape = np.asarray(level.grid.shape)
    low, high = places.reshape(-1, 3).min(0), places.reshape(-1, 3).max(0)
    start = np.clip(np.floor(low + 1e-3), 0, shape - 1).astype(int)
    stop = np.clip(np.ceil(high - 1e-3), start, shape - 1).astype(int) + 1
    data = level.read(tuple(start.tolist()), tuple(stop.tolist())).astype(np.float32)
    same = data.shape[-3:] == grid.shape and np.abs(places - start - index).max() < 2e-3
    if same:  # samples that both grids have need no interpolation
        return data
    # Within half a voxel of the edge the outer value holds, beyond there is nothing.
    inside = ((places >= -0.5 - 1e-6) & (places <= shape - 0.5 + 1e-6)).all(-1)
    where = np.moveaxis(places - start, -1, 0)
    parts = data if data.ndim == 4 else data[None]
    found = np.stack([ndimage.map_coordinates(part, where, order=1, mode="nearest") for part in parts]) * inside
    return found if data.ndim == 4 else found[0]
