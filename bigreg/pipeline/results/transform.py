"""A map in both directions as its user sees it: it carries points and images, and is joined with others to a chain."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...cluster import Cluster
from ...config import Config, load_cluster
from ...errors import ConfigError, InputError, named
from ...geometry import Grid
from ...points import Column, Counts, inside_column, map_points_file
from ...transforms.maps import Map
from ...volumes import Volume
from ...volumes.stored import label
from ..store.inputs import as_volume
from ..tasks import warp
from ..tasks.fields import DIRECTIONS, ends
from . import resample
from .export import export
from .likened import opened_like, warn_of_extent
from .outputs import Output, chosen_interpolation
from .resample import Job
from .target import Box, target_grid

logger = logging.getLogger(__name__)


def checked(direction: str) -> str:
    """The direction. Raises ConfigError where there is none of that name."""
    if direction not in DIRECTIONS:
        raise ConfigError(f"direction {direction!r} is unknown; use {' or '.join(DIRECTIONS)}")
    return direction


class Transform(ABC):
    """A map between a fixed and a moving frame, in um (z, y, x)."""

    @abstractmethod
    def map(self, direction: str = "fixed_to_moving") -> Map:
        """One direction of the map. Raises InputError if it is not known."""

    @property
    def config(self) -> Config:
        return Config()

    def identity(self) -> str:
        """Tells it from others."""
        return repr(self)

    def frame_image(self, frame: str) -> Volume | None:
        """The image whose frame "fixed" or "moving" is; None if it is not known."""
        return None

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
            raise InputError(f"points must be (N, 3) in µm (z, y, x), got shape {points.shape}")
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
        inside: bool = False,
        risk: bool = False,
        sigma: bool = False,
        noncorrespondence: bool = False,
    ) -> Counts:
        """Map the points of a table (CSV, Parquet), an elastix file, a neuron (SWC) or a mesh (OBJ, PLY, STL).

        image, onto   images in whose voxels the points are, before and after, if units are voxels and not the run's
        inside        a table gets a column of 1 for points that lie in both frames, else 0
        risk          and one of the probability that the map is off there by more than two voxels (see `risk_at`)
        sigma         and four of how far it may be off (see `sigma_columns`)
        noncorrespondence   and one of 1 for points without a counterpart in the other image, else 0
        For the others see `points.map_points_file`. Returns how many points there were, and how many lay outside of
        either frame.
        """
        grids = (
            None if image is None else as_volume(image, "image").grid(),
            None if onto is None else as_volume(onto, "onto").grid(),
        )
        through = self.map(checked(direction))
        added: dict[str, Column] = {}
        if inside:
            if through.target.grid is None and grids[1] is None:
                raise InputError(
                    f"column inside: the extent of the other image is unknown; give it as {named('--onto', 'onto')}"
                )
            added["inside"] = inside_column
        if risk:
            added["risk"] = self.risk_column(direction)
        if sigma:
            added |= self.sigma_columns(direction)
        if noncorrespondence:
            added["noncorrespondence"] = self.noncorrespondence_column(direction)
        return map_points_file(source, target, through, columns=columns, units=units, to=to, grids=grids, added=added)

    def risk_at(self, points: np.ndarray) -> np.ndarray:
        """(N,) the probability that the map is off by more than two voxels of the finest level, at points (N, 3) of the
        fixed frame, um; NaN where nothing is known. Raises InputError where no map of it is kept: only a run has one.
        """
        raise InputError(f"{self!r} keeps no map of its risk; give the run itself")

    def risk_column(self, direction: str) -> Column:
        """`risk_at` as a column of a table of points mapped in a direction; raises what it raises."""
        self.risk_at(np.empty((0, 3)))
        forth = checked(direction) == "fixed_to_moving"
        return lambda given, mapped, there: self.risk_at(given if forth else mapped)

    def noncorrespondence_at(self, points: np.ndarray) -> np.ndarray:
        """(N,) 1 without a counterpart in the other image, else 0, at points (N, 3) of the fixed frame, um; NaN
        outside of it. Raises InputError where no mask of it is kept: only a run has one.
        """
        raise InputError(f"{self!r} keeps no mask of non-correspondence; give the run itself")

    def noncorrespondence_column(self, direction: str) -> Column:
        """`noncorrespondence_at` as a column of a table of points mapped in a direction; raises what it raises."""
        self.noncorrespondence_at(np.empty((0, 3)))
        forth = checked(direction) == "fixed_to_moving"
        return lambda given, mapped, there: self.noncorrespondence_at(given if forth else mapped)

    def sigma_at(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) how far the map may be off along z, y and x of the fixed world, SD in um, at points (N, 3) of the
        fixed frame, um; NaN where nothing is known. Raises InputError where none is kept: only a run has one.
        """
        raise InputError(f"{self!r} keeps no sigma of its map; give the run itself")

    def sigma_columns(self, direction: str) -> dict[str, Column]:
        """Columns of a table of points mapped in a direction: SD (um) of where they end along z, y and x of the world
        that they end in, and the root mean square of the distance (the root of the sum of the three squares).

        Raises InputError as `sigma_at` does.
        """
        self.sigma_at(np.empty((0, 3)))
        forth = checked(direction) == "fixed_to_moving"
        turn = np.square(self.map(direction).affine[:3, :3]) if forth else np.eye(3)

        last: tuple[np.ndarray, np.ndarray] | None = None  # the columns are asked for the same points in turn

        def sigma(given: np.ndarray, mapped: np.ndarray) -> np.ndarray:
            nonlocal last
            if last is None or last[0] is not given:
                variance = np.square(self.sigma_at(given if forth else mapped), dtype=float) @ turn.T
                last = given, np.sqrt(variance)
            return last[1]

        def along(axis: int) -> Column:
            return lambda given, mapped, there: sigma(given, mapped)[:, axis]

        return {f"sigma_{name}_um": along(axis) for axis, name in enumerate("zyx")} | {
            "sigma_um": lambda given, mapped, there: np.linalg.norm(sigma(given, mapped), axis=1)
        }

    def warp(
        self,
        image: Any,
        *,
        out: str,
        direction: str = "fixed_to_moving",
        interpolation: str | None = None,
        onto: Any = None,
        spacing: Sequence[float] | None = None,
        level: int | None = None,
        box: Box | None = None,
        channels: Sequence[int] | None = None,
        dtype: Any = None,
        levels: int | None = None,
        ome_version: str | None = None,
        client: Any = None,
        cluster: Cluster | dict[str, Any] | str | None = None,
        workers: int | None = None,
        memory_limit: str | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Volume:
        """Resample an image through the map, once, and write it; the same call resumes after a stop.

        out             its ending is the format, as `bigreg.convert` has it: .ome.zarr, .ome.tif, .tif, .nii.gz, .nrrd

        image           all its channels and time points, unless it was opened at one; if it states no voxel size and
                        has the shape of the run's image there, it has that image's grid
        direction       the map that is followed for each output voxel: "fixed_to_moving" brings an image of the moving
                        frame onto the fixed grid, "moving_to_fixed" one of the fixed frame onto the moving grid
        interpolation   linear, nearest (labels, masks) or cubic; None is nearest for what looks like labels (see
                        `volumes.labelled`), else linear
        onto            an image, or a Grid: the grid of the output, in the world that the map starts in
        spacing, level, box   another spacing (um, z y x) of the same extent, a level of its pyramid, a part in um
                        ((low, high) of z, y and x; None is as far as it goes)
        channels        which ones
        dtype, levels, ome_version   of the output, as `bigreg.convert` has them
        client          a dask.distributed Client; None makes the cluster that is named
        cluster, workers, memory_limit   as `bigreg.Run.resume` takes them; without any a small output is made by this
                        process and a large one by all cores of this machine

        Where the output is coarser than the image, the image is averaged first (labels: majority vote); see
        `pipeline.averaging`. NaN of a float image stays NaN, as does what is interpolated from it; outside
        the image the output is 0. Raises ConfigError, InputError, OutputError where something else is at `out`.
        """
        through = self.map(checked(direction))
        if interpolation not in (None, "linear", "nearest", "cubic"):
            raise ConfigError(f"interpolation {interpolation!r} is unknown; use linear, nearest or cubic")
        output = Output.of(out, dtype, levels, ome_version)
        frame, other = ends(direction)
        volume = opened_like(image, lambda: self.frame_image(other), other)
        output.require_dtype(volume)
        warn_of_extent(volume, through.target.grid, other)
        source = through.source
        base = onto if onto is None or isinstance(onto, Grid) else as_volume(onto, "onto")
        if base is None:
            base = (self.frame_image(frame) if level is not None else None) or source.grid
        if base is None:
            raise InputError(f"the voxel grid of the {frame} frame is unknown; give an image `onto`")
        grid = target_grid(base, spacing=spacing, level=level, box=box)
        given = {"workers": workers, "memory_limit": memory_limit}
        given = {key: value for key, value in given.items() if value is not None}
        settings = load_cluster(cluster, overrides=given) if cluster is not None or given else None
        if interpolation is None:
            interpolation, why = chosen_interpolation(volume)
            if why:
                logger.info(why)
        job = Job(
            self, direction, volume.spec or volume, _planes(volume, channels),
            tuple(warp.output_grids(grid)[: output.levels]), output.made_at, interpolation, self.config.io,
            output.dtype,
        )  # fmt: skip
        sizes = self.config.output
        made = resample.run(
            job, volume, name=f"{volume.name} on {frame}", orientation=source.orientation, chunk=sizes.chunk,
            shard=sizes.shard, client=client, cluster=settings, progress=progress,
        )  # fmt: skip
        return output.finished(made, progress)

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


def _planes(volume: Volume, channels: Sequence[int] | None) -> tuple[tuple[int, int], ...]:
    """(time point, channel) of what is resampled. Raises InputError for a channel that is not there."""
    if channels is None:
        return tuple(volume.planes)
    missing = [c for c in channels if not 0 <= c < volume.channels]
    if missing or not channels or len(set(channels)) < len(channels):
        called = label(volume.name, volume.settings)
        raise InputError(f"{called}: channels {list(channels)} are not each one of 0 to {volume.channels - 1}, once")
    times = sorted({t for t, _ in volume.planes})
    return tuple((t, c) for t in times for c in sorted(map(int, channels)))


class Inverse(Transform):
    """Another transform with its frames exchanged."""

    def __init__(self, other: Transform) -> None:
        self.other = other

    def __repr__(self) -> str:
        return f"{self.other!r}.inverse"

    @property
    def inverse(self) -> Transform:
        return self.other

    def identity(self) -> str:
        return f"{self.other.identity()}.inverse"

    def frame_image(self, frame: str) -> Volume | None:
        return self.other.frame_image("moving" if frame == "fixed" else "fixed")

    def risk_column(self, direction: str) -> Column:
        there, back = DIRECTIONS
        return self.other.risk_column(back if checked(direction) == there else there)

    def noncorrespondence_column(self, direction: str) -> Column:
        there, back = DIRECTIONS
        return self.other.noncorrespondence_column(back if checked(direction) == there else there)

    def sigma_columns(self, direction: str) -> dict[str, Column]:
        there, back = DIRECTIONS
        return self.other.sigma_columns(back if checked(direction) == there else there)

    def map(self, direction: str = "fixed_to_moving") -> Map:
        there, back = DIRECTIONS
        return self.other.map(back if checked(direction) == there else there)
