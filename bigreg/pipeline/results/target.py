"""The grid that an image is resampled onto."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import ConfigError, InputError
from ...geometry import Grid
from ...volumes import Volume, pyramid_factors

Box = Sequence[tuple[float | None, float | None]]
"""(low, high) of z, y and x in um of the frame; None is as far as the grid goes."""


def target_grid(
    base: Volume | Grid, *, spacing: Sequence[float] | None = None, level: int | None = None, box: Box | None = None
) -> Grid:
    """A grid over what `base` covers.

    spacing   um (z, y, x), about: faces agree
    level     of the base's own pyramid; of a base without one, of the pyramid that `convert` would give it
    box       only the voxels whose centres lie in it
    Raises ConfigError where they contradict each other or name nothing, InputError where no voxel is left.
    """
    if spacing is not None and level is not None:
        raise ConfigError("both spacing and level are given; choose one")
    grid = base if isinstance(base, Grid) else base.grid()
    if level is not None:
        grids = _levels(base)
        if not 0 <= level < len(grids):
            raise ConfigError(f"level {level} is out of range; available: {len(grids)} (0 to {len(grids) - 1})")
        grid = grids[level]
    if spacing is not None:
        if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise ConfigError(f"spacing {spacing} must be three positive numbers in µm (z, y, x)")
        grid = grid.resampled(spacing)
    return grid if box is None else cut(grid, box)


def _levels(base: Volume | Grid) -> list[Grid]:
    if isinstance(base, Volume) and len(base.levels) > 1:
        return [each.grid for each in base.levels]
    grid = base if isinstance(base, Grid) else base.grid()
    return [grid.downsampled(f) for f in pyramid_factors(grid)]


def cut(grid: Grid, box: Box) -> Grid:
    """The part of a grid in a box of the world; of an oblique one the smallest part that holds the box."""
    if len(box) != 3 or any(len(ends) != 2 for ends in box):
        raise ConfigError(f"box {box} must be three pairs of µm (z, y, x), low and high")
    lowest, highest = grid.bounds(faces=True)
    low = np.array([b if a is None else a for (a, _), b in zip(box, lowest, strict=True)], dtype=float)
    high = np.array([b if a is None else a for (_, a), b in zip(box, highest, strict=True)], dtype=float)
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise ConfigError(f"box from {low} to {high} µm is empty; give low and high of z, y and x")
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1).T
    index = grid.world_to_index(corners)
    first = np.maximum(np.ceil(index.min(0) - 1e-6), 0).astype(int)
    stop = np.minimum(np.floor(index.max(0) + 1e-6) + 1, grid.shape).astype(int)
    if (stop <= first).any():
        raise InputError(f"box from {low} to {high} µm holds no voxel of the grid, from {lowest} to {highest} µm")
    return grid.cropped(first, stop)
