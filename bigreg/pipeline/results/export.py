"""Maps for other programs: which format a file's name stands for, and what each can hold."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ... import storage
from ...errors import ConfigError, InputError, named
from ...geometry import Grid
from ...transforms import itk, landmarks, ngff
from ...transforms.files import axes_of, unit_um
from ...transforms.itk_fields import SUFFIXES as FIELDS
from ...transforms.itk_fields import write_field
from ...transforms.maps import Field, Frame, Map
from ...transforms.positions import Positions

logger = logging.getLogger(__name__)
FORMATS = {
    "composite": (".h5", ".hdf5"),
    "field": FIELDS,
    "affine": (".txt", ".tfm", ".mat", ".h5", ".hdf5"),
    "matrix": (".csv",),
    "bigwarp": (".csv",),
}
"""Each format and its suffixes.

composite   ITK's CompositeTransform: affines and fields as they are, in ANTs' order
field       ITK's displacement field: the whole map, the affine included
affine      ITK's AffineTransform: the affine part alone
matrix      the affine part as four lines of four numbers: source world to target world, z y x um
bigwarp     pairs of landmarks on a regular lattice: moving x y z, fixed x y z, um

Of a map in pieces the last alone: no other can say that it jumps, and that there is nothing between.
"""


def export(map_: Map, out: str, format: str | None, unit: str, axes: str, pairs: int) -> str:
    """Write a map; returns the name of the format. See `Transform.export`."""
    unit_um(unit), axes_of(axes)
    format = format or _by_suffix(out)
    if format not in FORMATS or not out.lower().endswith(FORMATS[format]):
        offered = "; ".join(f"{name} ({' '.join(suffixes)})" for name, suffixes in FORMATS.items())
        what = f"format '{format}' is not written to such a name" if format else "its ending belongs to no format"
        raise ConfigError(f"'{out}': {what}; formats are {offered}")
    if map_.choice is not None and format != "bigwarp":
        raise InputError(
            f"'{out}': format {format} holds one map, which bridges what lies between its samples, and this one jumps "
            f"from piece to piece; export the run of each piece, or landmarks ({named('--format', 'format')} bigwarp)"
        )
    um = unit_um(unit)
    if axes_of(axes) == "xyz":
        map_ = Map(map_.steps, Frame(map_.source.grid), Frame(map_.target.grid))
    with storage.new_file(out) as path:
        _write(path, map_, format, um, pairs)
    return format


def _by_suffix(out: str) -> str | None:
    if out.lower().endswith(".csv"):
        raise ConfigError(f"'{out}' may be a matrix or landmarks; give {named('--format', 'format')} matrix or bigwarp")
    if out.lower().endswith(".zarr"):
        raise ConfigError(f"'{out}': a run's folder 'transforms' is an OME-Zarr scene already; copy it")
    return next((name for name, suffixes in FORMATS.items() if out.lower().endswith(suffixes)), None)


def _write(path: Path, map_: Map, format: str, unit: float, pairs: int) -> None:
    if format == "matrix":
        np.savetxt(path, map_.affine, fmt="%.17g", delimiter=",")
    elif format == "bigwarp":
        landmarks.write_bigwarp(path, *_pairs(map_, pairs))
    elif format == "affine":
        itk.write_affine(path, itk.in_lps(map_).affine, unit)
    elif format == "composite":
        itk.write_composite(path, itk.in_lps(map_), unit)
    else:
        grid = _sampling(map_)
        _warn_of_extrapolation(map_, grid)
        turned = grid.transformed(itk.to_lps(map_.source.orientation))
        write_field(path, turned, itk.displacements(itk.in_lps(map_), turned, unit), unit)


def _sampling(map_: Map) -> Grid:
    """Where the whole map is sampled, in the source world: as the field that it begins with, else over its frame."""
    if map_.steps and isinstance(map_.steps[0], Field):
        return map_.steps[0].grid
    frame = map_.source.grid
    if frame is None:
        raise InputError("the sampling grid of the map is unknown; give the fixed image, or write composite (.h5)")
    low, high = frame.bounds(faces=True)
    finest = [min(f.grid.spacing) for f in map_.fields]
    # An affine is exact between any samples.
    spacing = np.full(3, min(finest)) if finest else (high - low) / 4
    grid = ngff.field_grid(frame, spacing)
    return grid.cropped((-1, -1, -1), np.add(grid.shape, 1))


def _warn_of_extrapolation(map_: Map, grid: Grid) -> None:
    """A displacement field has no word for "not known": what a chain's later fields do not cover is said here."""
    if len(map_.fields) < 2:
        return
    step = np.maximum(1, np.asarray(grid.shape) // 32)
    index = np.stack(np.meshgrid(*(np.arange(0, n, s) for n, s in zip(grid.shape, step, strict=True))), -1)
    points = grid.index_to_world(index.reshape(-1, 3))
    points = points[map_.fields[0].domain.contains(points)]
    unknown = map_.follow(Positions.of_points(points))[1] if len(points) else None
    share = 0.0 if unknown is None else 1.0 - float(unknown.float().mean())
    if share > 0:
        logger.warning("%.1f %% of the field are beyond a later map of the chain and are extrapolated", 100 * share)


def _pairs(map_: Map, count: int) -> tuple[np.ndarray, np.ndarray]:
    """About `count` points on a lattice of the source frame, and where they go; only those that end in the target."""
    frame = map_.source.grid
    if frame is None:
        raise InputError("the extent of the landmarks is unknown; give the fixed image")
    extent = np.asarray(frame.spacing) * frame.shape
    cell = (np.prod(extent) / max(count, 8)) ** (1 / 3)
    numbers = np.maximum(2, np.round(extent / cell)).astype(int)
    lines = [(np.arange(n) + 0.5) / n * size - 0.5 for n, size in zip(numbers, frame.shape, strict=True)]
    points = frame.index_to_world(np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3))
    moved = map_.points(points)
    known = np.isfinite(moved).all(1)
    if map_.target.grid is not None:
        known[known] = map_.target.grid.contains(moved[known])
    if not known.any():
        raise InputError("no landmark of the map is inside both images; check how they overlap")
    return points[known], moved[known]
