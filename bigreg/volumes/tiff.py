"""TIFF: a stack in one file (BigTIFF, OME-TIFF, ImageJ), a folder of slices, or a glob of slices; read lazily.

What is stored uncompressed and in one piece is mapped, tiles and strips are read one by one. A compressed page that is
one strip has to be decoded whole for any part of it: `bigreg convert` such stacks once.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
import zarr

from ..errors import CorruptDataError, InputError
from ..geometry import Shape
from ..storage import local_path
from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, counts, label, open_binary, pick, scaling
from .units import micrometres

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
# How tifffile names the axis of pages it knows nothing else about.
_DEPTH_AXES = {"I": "z", "Q": "z", "S": "c"}


def open_tiff(spec: ImageSpec, name: str) -> StoredImage:
    local = local_path(spec.path)
    if local is not None and (local.is_dir() or glob.has_magic(str(local))):
        return _open_slices(spec, name, local)
    try:
        # A path is opened by tifffile itself; a URL becomes a file object that reads ranges.
        tiff = tifffile.TiffFile(str(local) if local is not None else open_binary(spec.path))
    except (tifffile.TiffFileError, ValueError) as error:
        raise CorruptDataError(
            f"{label(name, spec)} cannot be read as TIFF: {error}; restore it from its source"
        ) from error
    if spec.dataset and not (spec.dataset.isdigit() and int(spec.dataset) < len(tiff.series)):
        raise InputError(f"{label(name, spec)} does not exist; there are {len(tiff.series)} series (0 to ...)")
    series = tiff.series[int(spec.dataset or 0)]
    axes = "".join(_DEPTH_AXES.get(a, a.lower()) for a in series.axes)
    picked = pick(name, spec, axes, series.shape)
    spacing = _ome_spacing(tiff, int(spec.dataset or 0)) or _imagej_spacing(tiff)
    levels: list[StoredLevel] = []
    for number in range(len(series.levels)):
        array = zarr.open_array(series.aszarr(level=number), mode="r")
        read = BoxReader(array, axes, picked)
        shape = read.per_axis(array.shape)
        # The pages of a TIFF pyramid cover the same area, so spacings follow from the sizes and faces agree.
        step = np.asarray(levels[0].shape) / shape if levels else np.ones(3)
        affine = scaling(step * (spacing or (1, 1, 1)), (step - 1) / 2 * (spacing or (1, 1, 1)))
        levels.append(StoredLevel(shape, affine, read.per_axis(array.chunks), read))
    return StoredImage(
        levels=tuple(levels),
        dtype=np.dtype(series.dtype),
        metadata={"axes": series.axes, "shape": series.shape, "spacing": spacing, "pages": len(tiff.pages)},
        **counts(axes, series.shape),
        spacing_known=spacing is not None,
    )


def _ome_spacing(tiff: tifffile.TiffFile, series: int) -> tuple[float, ...] | None:
    if not tiff.ome_metadata:
        return None
    pixels = [e for e in ElementTree.fromstring(tiff.ome_metadata).iter() if e.tag.rpartition("}")[2] == "Pixels"]
    if series >= len(pixels):
        return None
    sizes = []
    for axis in "ZYX":
        value = pixels[series].get(f"PhysicalSize{axis}")
        factor = micrometres(pixels[series].get(f"PhysicalSize{axis}Unit", "µm"))  # the schema's default
        sizes.append(float(value) * factor if value and factor else 0.0)
    return tuple(sizes) if all(s > 0 for s in sizes) else None


def _imagej_spacing(tiff: tifffile.TiffFile) -> tuple[float, ...] | None:
    metadata = tiff.imagej_metadata or {}
    factor, depth = micrometres(metadata.get("unit")), metadata.get("spacing")
    tags = tiff.pages[0].tags
    steps = [depth]
    for tag in ("YResolution", "XResolution"):
        count, length = tags[tag].value if tag in tags else (0, 1)
        steps.append(length / count if count else 0)
    if factor is None or not all(step and step > 0 for step in steps):
        return None
    return tuple(float(step) * factor for step in steps)


def _natural(path: str) -> list[Any]:
    """slice_9 before slice_10."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", Path(path).name)]


@dataclass(frozen=True)
class _Slices:
    """Boxes out of a stack whose planes are files."""

    paths: tuple[str, ...]
    shape: tuple[int, ...]
    channel: int | None

    def __call__(self, start: Shape, stop: Shape) -> np.ndarray:
        planes = [self._plane(path, start, stop) for path in self.paths[start[0] : stop[0]]]
        return np.stack(planes)

    def _plane(self, path: str, start: Shape, stop: Shape) -> np.ndarray:
        box = (slice(start[1], stop[1]), slice(start[2], stop[2]))
        try:
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages[0]
                if page.shape != self.shape:
                    raise InputError(f"slice '{path}' has shape {page.shape}, the first one {self.shape}")
                mapped = page.is_memmappable
                plane = tifffile.memmap(path, page=0, mode="r") if mapped else page.asarray()
                plane = plane if self.channel is None else plane[..., self.channel]
                return np.array(plane[box])
        except (tifffile.TiffFileError, ValueError, OSError, RuntimeError) as error:
            raise CorruptDataError(f"slice '{path}' cannot be decoded: {error}; restore it from its source") from error


def _open_slices(spec: ImageSpec, name: str, local: Path) -> StoredImage:
    if local.is_dir():
        paths = [str(path) for path in local.iterdir() if path.suffix.lower() in SUFFIXES]
    else:
        paths = [path for path in glob.glob(str(local)) if Path(path).suffix.lower() in SUFFIXES]
    if not paths:
        raise InputError(f"{label(name, spec)} holds no TIFF slices ({', '.join(SUFFIXES)}); check the path")
    paths = tuple(sorted(paths, key=_natural))
    if len(paths) == 1:
        raise InputError(f"{label(name, spec)} is 2-D: it holds the one slice '{paths[0]}'; give a stack")
    shape, dtype, chunks = _checked(paths, label(name, spec), sum(Path(path).stat().st_mtime_ns for path in paths))
    colour = len(shape) == 3
    picked = pick(name, spec, "zyxc" if colour else "zyx", (len(paths), *shape))
    read = _Slices(paths, shape, picked["c"] if colour else None)
    level = StoredLevel((len(paths), *shape[:2]), scaling((1, 1, 1)), (1, *chunks), read)
    return StoredImage(
        levels=(level,),
        dtype=dtype,
        metadata={"slices": [Path(path).name for path in paths], "shape": shape, "dtype": str(dtype)},
        channels=shape[2] if colour else 1,
        spacing_known=False,
    )


@cache
def _checked(paths: Sequence[str], called: str, version: int) -> tuple[tuple[int, ...], np.dtype, tuple[int, int]]:
    """Shape, dtype and chunks that all slices share, seen in their headers once a process and `version`."""
    with ThreadPoolExecutor(4) as pool:
        seen = pool.map(_header, paths)
        shape, dtype, pages, chunks = next(seen)
        if pages != 1 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] > 4):
            raise InputError(f"{called}: slice '{paths[0]}' has {pages} pages of shape {shape}; slices must be 2-D")
        for path, other in zip(paths[1:], seen, strict=True):
            if other[:3] != (shape, dtype, pages):
                raise InputError(
                    f"{called}: slice '{path}' has {other[2]} page of shape {other[0]}, {other[1]}, but '{paths[0]}' "
                    f"{shape}, {dtype}; remove it or give one stack"
                )
    return shape, dtype, chunks


def _header(path: str) -> tuple[tuple[int, ...], np.dtype, int, tuple[int, int]]:
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            # Only one page is asked for beyond the first: counting the pages of a long stack takes long.
            pages = 2 if tiff.pages[0].shape and _has_second(tiff) else 1
            chunks = (
                (page.tilelength, page.tilewidth)
                if page.is_tiled
                else (min(page.rowsperstrip, page.imagelength), page.imagewidth)
            )
            return page.shape, np.dtype(page.dtype), pages, chunks
    except (tifffile.TiffFileError, ValueError) as error:
        raise CorruptDataError(f"slice '{path}' cannot be read as TIFF: {error}; restore it from its source") from error


def _has_second(tiff: tifffile.TiffFile) -> bool:
    try:
        return tiff.pages[1] is not None
    except IndexError:
        return False
