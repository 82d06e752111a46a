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
from ..transforms.files import open_maps
from ..transforms.itk import MM
from ..transforms.maps import Frame, Map
from ..volumes import ImageWriter, Volume, open_volume
from . import warp
from .fields import DIRECTIONS, ends
from .plan import as_volume

INVERSE = ":inverse"
"""What stands after the path of a run or a file that is to be followed backwards."""


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
        from .export import export

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


class FileTransform(Transform):
    """The map of a file: ITK's transforms and fields, a 4 x 4 or landmarks as CSV, an OME-Zarr scene.

    fixed, moving   what is known of the two frames: their grids, and how LPS lies in them
    unit            um that one of an ITK file's units is
    """

    def __init__(self, path: str, fixed: Frame | None = None, moving: Frame | None = None, unit: float = MM) -> None:
        self.path = str(path)
        self._there, self._back = open_maps(self.path, fixed, moving, unit)

    def __repr__(self) -> str:
        return f"FileTransform('{self.path}')"

    def map(self, direction: str = "fixed_to_moving") -> Map:
        if checked(direction) == "fixed_to_moving":
            return self._there
        if self._back is None:
            raise InputError(f"'{self.path}' holds displacements without their inverse; give the file of the other way")
        return self._back


class Chain(Transform):
    """Transforms one after another: the moving frame of each is the fixed frame of the next."""

    def __init__(self, parts: tuple[Transform, ...]) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.parts))})"

    def map(self, direction: str = "fixed_to_moving") -> Map:
        parts = self.parts if checked(direction) == "fixed_to_moving" else self.parts[::-1]
        out = parts[0].map(direction)
        for part in parts[1:]:
            out = out.then(part.map(direction))
        return out


def chain(*parts: Any, fixed: Any = None, moving: Any = None, unit: str = "mm", axes: str = "lps") -> Transform:
    """Join runs and transform files to one map from the fixed frame of the first to the moving frame of the last.

    parts           runs, chains, paths of either or of a transform file; ":inverse" after a path goes backwards
    fixed, moving   images at the two ends: where a file stands there, they say its grid and how its axes lie
    unit, axes      of ITK's files, see `Transform.export`

    A brain that was registered to an atlas (`atlas.zarr`: fixed = atlas), and a further round of imaging to the brain
    (`round.zarr`: fixed = brain): `chain("atlas.zarr", "round.zarr").warp("round.ome.zarr", out=...)` brings the round
    onto the atlas with one interpolation.
    """
    if not parts:
        raise ConfigError("a chain needs at least one run or transform file")
    given = [_frame(image, which) for image, which in ((fixed, "fixed"), (moving, "moving"))]
    given_parts = [opened(part) for part in parts]
    # A file takes its frames from its neighbours, or from the images at the ends.
    last = len(given_parts) - 1
    out: list[Transform] = []
    for number, part in enumerate(given_parts):
        if isinstance(part, Transform):
            out.append(part)
            continue
        path, backwards = part
        before = given[0] if number == 0 else out[-1].map().target
        after = given[1] if number == last else Frame()
        if number < last and isinstance(given_parts[number + 1], Transform):
            after = given_parts[number + 1].map().source
        if axes_of(axes) == "xyz":
            before, after = Frame(before.grid), Frame(after.grid)
        sides = (after, before) if backwards else (before, after)
        one = FileTransform(path, *sides, unit_um(unit))
        out.append(one.inverse if backwards else one)
    return out[0] if len(out) == 1 else Chain(tuple(out))


def unit_um(unit: str) -> float:
    units = {"mm": MM, "um": 1.0}
    if unit not in units:
        raise ConfigError(f"unit {unit!r} is unknown; use mm (ITK's of NIfTI images) or um")
    return units[unit]


def axes_of(axes: str) -> str:
    if axes not in ("lps", "xyz"):
        raise ConfigError(f"axes {axes!r} are unknown; use lps or xyz")
    return axes


def _frame(image: Any, which: str) -> Frame:
    if image is None:
        return Frame()
    volume = as_volume(image, which)
    return Frame(volume.grid(), volume.orientation)


def opened(part: Any) -> Transform | tuple[str, bool]:
    """A transform, or the path of a file and whether it goes backwards."""
    if isinstance(part, Transform):
        return part
    from .run import Run, is_run

    text = str(part)
    backwards = text.endswith(INVERSE)
    path = text.removesuffix(INVERSE)
    if is_run(path):
        return Run(path).inverse if backwards else Run(path)
    return path, backwards
