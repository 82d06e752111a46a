"""A map in both directions as its user sees it: it carries points and images, and is joined with others to a chain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from .. import storage
from ..config import Config
from ..errors import ConfigError, InputError, OutputError
from ..geometry import Grid
from ..points import Counts, map_points_file
from ..transforms.maps import Map
from ..volumes import ImageWriter, Volume, open_volume
from . import warp
from .export import export
from .fields import DIRECTIONS, ends
from .inputs import as_volume


def checked(direction: str) -> str:
    """The direction. Raises ConfigError where there is none of that name."""
    if direction not in DIRECTIONS:
        raise ConfigError(f"direction {direction!r} is unknown; use {' or '.join(DIRECTIONS)}")
    return direction


class Transform(ABC):
    """A map between a fixed and a moving frame, in um (z, y, x)."""

    @abstractmethod
    def map(self, direction: str = "fixed_to_moving") -> Map:
        """One direction, to be followed. Raises InputError where it is not known."""

    @property
    def config(self) -> Config:
        return Config()

    @property
    def inverse(self) -> Transform:
        """The same with fixed and moving exchanged."""
        return Inverse(self)

    def map_points(self, points: np.ndarray, direction: str = "fixed_to_moving") -> np.ndarray:
        """(N, 3) world points (um, z y x) to (N, 3); NaN only for points outside the frame they are given in.

        direction   "fixed_to_moving": points of the fixed frame to the moving one; "moving_to_fixed": back
        """
        points = np.asarray(points, dtype=float)
        if points.ndim != 2 or points.shape[1] != 3:
            raise InputError(f"points must be (N, 3) in um (z, y, x), got shape {points.shape}")
        return self.map(direction).points(points)

    def map_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        direction: str = "fixed_to_moving",
        columns: Sequence[str] | None = None,
        units: str | None = None,
        to: str | None = None,
        image: Any = None,
        onto: Any = None,
    ) -> Counts:
        """Map the points of a table (CSV, Parquet), an elastix file, a neuron (SWC) or a mesh (OBJ, PLY, STL).

        image, onto   images whose voxels are meant, before and after, where units are voxels and the run's are not
        For the others see `points.map_points_file`. Returns how many points there were, and how many lay outside.
        """
        grids = tuple(None if i is None else as_volume(i, n).grid() for i, n in ((image, "image"), (onto, "onto")))
        through = self.map(checked(direction))
        return map_points_file(source, target, through, columns=columns, units=units, to=to, grids=grids)

    def warp(
        self,
        image: Any,
        *,
        out: str,
        direction: str = "fixed_to_moving",
        interpolation: str = "linear",
        onto: Any = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Volume:
        """Resample an image through the map, once, and write it as OME-Zarr.

        direction       the map that is followed for each output voxel: "fixed_to_moving" brings an image of the moving
                        frame onto the fixed grid, "moving_to_fixed" one of the fixed frame onto the moving grid
        interpolation   linear, nearest (labels) or cubic
        onto            an image, or a Grid, whose grid is taken instead; it lies in the world that the map starts in
        """
        through = self.map(checked(direction))
        if interpolation not in ("linear", "nearest", "cubic"):
            raise ConfigError(f"interpolation {interpolation!r} is unknown; use linear, nearest or cubic")
        volume = as_volume(image, "image")
        if storage.exists(out):
            raise OutputError(f"'{out}' exists already; choose another output or remove it")
        frame, _ = ends(direction)
        grid = onto if isinstance(onto, Grid) else through.source.grid
        if onto is not None and not isinstance(onto, Grid):
            grid = as_volume(onto, "onto").grid()
        if grid is None:
            raise InputError(f"the map does not say on which grid its {frame} frame is sampled; give an image `onto`")
        labels = interpolation == "nearest"
        config = self.config
        warp.create(out, grid, volume.dtype, config, name=f"{volume.name} on {frame}", labels=labels)
        jobs = [(0, i) for i in product(*map(range, warp.output_blocks(grid, config).counts))]
        writer = ImageWriter(out)
        for level in range(1, len(warp.output_grids(grid))):
            shape, unit = writer.array(level).shape, writer.unit(level)
            jobs += [(level, i) for i in product(*(range(-(-n // u)) for n, u in zip(shape, unit, strict=True)))]
        for number, (level, index) in enumerate(jobs):
            if level == 0:
                warp.warp_block(through, volume, grid, out, interpolation, config, index)
            else:
                warp.coarsen(out, level, labels, index)
            if progress is not None:
                progress(number + 1, len(jobs), "resample" if level == 0 else f"level {level}")
        writer.finish()
        return open_volume(out)

    def export(
        self,
        out: str,
        *,
        format: str | None = None,
        direction: str = "fixed_to_moving",
        unit: str = "mm",
        axes: str = "lps",
        pairs: int = 200,
    ) -> str:
        """Write one direction of the map for other programs; see `pipeline.export.FORMATS`. Returns the format.

        format   composite, field, affine, matrix or bigwarp; by default what the suffix of `out` is used for
        unit     what ITK's numbers mean for these images: mm (NIfTI), or um (files that ITK reads as micrometres)
        axes     lps: x to the left, y to posterior, by the images' orientation; xyz: their axes as they are
        pairs    about how many landmarks (bigwarp)
        Raises ConfigError, InputError where the format cannot hold the map, OutputError.
        """
        return export(self.map(checked(direction)), out, format, unit, axes, pairs)


class Inverse(Transform):
    """Another transform with its frames exchanged."""

    def __init__(self, other: Transform) -> None:
        self.other = other

    def __repr__(self) -> str:
        return f"{self.other!r}.inverse"

    @property
    def inverse(self) -> Transform:
        return self.other

    def map(self, direction: str = "fixed_to_moving") -> Map:
        there, back = DIRECTIONS
        return self.other.map(back if checked(direction) == there else there)
