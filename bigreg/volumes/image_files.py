"""Images as single files that other programs open: TIFF, NIfTI, NRRD; plane by plane, whole or not at all."""

from __future__ import annotations

import gzip
import io
import logging
import os
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import nibabel
import numpy as np
import tifffile

from ..endings import NIFTI, TIFF, output_format
from ..errors import OutputError, named
from ..storage import local_path, new_file
from .planes import Planes, Progress, stored_dtype
from .units import seconds
from .volume import Volume

logger = logging.getLogger(__name__)

_IMAGEJ = ("uint8", "uint16", "float32")
_OME = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
_ALL = (*_OME, "int64", "uint64")
_IMAGEJ_BYTES = 2**32 - 2**22
_FAST = 1
"""Level of gzip: a higher one takes many times as long for some per cent."""
_TO_RAS = {"i": (0, 1), "s": (0, -1), "p": (1, 1), "a": (1, -1), "l": (2, 1), "r": (2, -1)}
"""Of a world axis that starts at a side: the axis of (superior, anterior, right) that it runs along, and which way."""


def write_file(
    volume: Volume,
    out: str | os.PathLike[str],
    *,
    planes: Sequence[tuple[int, int]] | None = None,
    dtype: np.dtype | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write an image as the single file that the ending of `out` stands for.

    planes   (time point, channel): all combinations of those that are named; default all of the image
    A .tif is ImageJ's own where that can hold it (8 and 16 bits, 32-bit floats, below 4 GB), otherwise and as .ome.tif
    an OME BigTIFF; both keep the voxel size and no place. NIfTI and NRRD are in mm, with place and orientation; where
    that is not known NIfTI keeps the voxel size alone. Raises InputError for a dtype that the format does not hold,
    OutputError where `out` exists, unless `overwrite`, or is on no disk of this machine.
    """
    kind = output_format(out)
    path = local_path(os.fspath(out))
    image = Planes.of(volume, dtype_in(out, volume.dtype if dtype is None else dtype), planes, progress)
    write = {TIFF: _write_tiff, NIFTI: _write_nifti}.get(kind, _write_nrrd)
    if path is None or not (overwrite and path.exists()):
        with new_file(os.fspath(out)) as part:
            write(part, Path(out).name, image)
        return
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder; choose another output or remove it")
    fresh = path.with_name(f".{os.getpid()}.new.{path.name}")
    with new_file(fresh) as part:
        write(part, path.name, image)
    os.replace(fresh, path)


def dtype_in(out: str | os.PathLike[str], dtype: np.dtype | str) -> np.dtype:
    """What the format of `out` stores a dtype as. Raises InputError where it holds none."""
    kind = output_format(out)
    return stored_dtype(np.dtype(dtype), _OME if kind == TIFF else _ALL, f"'{os.fspath(out)}' ({kind})")


# ------------------------------------------------------------------------------------------------- TIFF


def _write_tiff(path: Path, name: str, image: Planes) -> None:
    grid = image.volume.grid()
    if not grid.is_axis_aligned or np.abs(grid.origin).max() > 1e-6:
        logger.warning("'%s': a TIFF stores no position, so the image's origin %s µm is left out", name, grid.origin)
    sizes = len(image.times), len(image.channels)
    imagej = image.dtype.name in _IMAGEJ and image.bytes < _IMAGEJ_BYTES
    if imagej and not name.lower().endswith((".ome.tif", ".ome.tiff")):
        _write_imagej(path, image)
        return
    metadata: dict[str, Any] = {"axes": "TCZYX"}
    for axis, value in zip("ZYX", grid.spacing, strict=True):
        metadata |= {f"PhysicalSize{axis}": float(value), f"PhysicalSize{axis}Unit": "µm"}
    if image.names:
        metadata["Channel"] = {"Name": image.names}
    if interval := _interval(image):
        metadata |= {"TimeIncrement": interval, "TimeIncrementUnit": "s"}
    shape = (*sizes, *image.volume.shape)
    tifffile.imwrite(
        path, image("tcz"), shape=shape, dtype=image.dtype, ome=True, bigtiff=True, photometric="minisblack",
        metadata=metadata,
    )  # fmt: skip


def _write_imagej(path: Path, image: Planes) -> None:
    depth, height, width = image.volume.shape
    dz, dy, dx = image.volume.grid().spacing
    shape = (len(image.times), depth, len(image.channels), height, width)
    metadata: dict[str, Any] = {"axes": "TZCYX", "spacing": float(dz), "unit": "um"}
    if image.names:
        metadata["Labels"] = image.names * (shape[0] * depth)
    if len(image.names) > 1:
        metadata["mode"] = "composite"
    if interval := _interval(image):
        metadata["finterval"] = interval
    tifffile.imwrite(
        path, image("tzc"), shape=shape, dtype=image.dtype, imagej=True, resolution=(1 / dx, 1 / dy), metadata=metadata
    )


def _interval(image: Planes) -> float | None:
    """Seconds from one time point to the next; None for a single one, and where no unit of time is stated."""
    time = image.volume.display.get("time", {})
    length = seconds(time.get("unit"))
    return None if len(image.times) < 2 or length is None else float(time.get("step", 1.0)) * length


# ------------------------------------------------------------------------------------------------- NIfTI, NRRD


def _ras(volume: Volume) -> np.ndarray | None:
    """Index (x, y, z) to right, anterior, superior in mm, 4 x 4; None where the orientation is not known."""
    if volume.orientation is None:
        return None
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for axis, side in enumerate(volume.orientation):
        row, sign = _TO_RAS[side]
        turn[row, axis] = sign
    flip = np.eye(4)[[2, 1, 0, 3]]
    affine: np.ndarray = flip @ np.diag([1e-3, 1e-3, 1e-3, 1.0]) @ turn @ volume.grid().affine @ flip
    return affine


def _write_nifti(path: Path, name: str, image: Planes) -> None:
    volume = image.volume
    times, channels = len(image.times), len(image.channels)
    shape: tuple[int, ...] = volume.shape[::-1]
    if max(times, channels) > 1:
        shape = (*shape, times) if channels == 1 else (*shape, times, channels)
    header = nibabel.Nifti1Header() if max(shape) < 2**15 else nibabel.Nifti2Header()
    header.set_data_dtype(image.dtype)
    header.set_data_shape(shape)
    header.set_zooms([float(s) / 1e3 for s in volume.grid().spacing[::-1]] + [1.0] * (len(shape) - 3))
    header.set_xyzt_units("mm", "sec")
    affine = _ras(volume)
    if affine is not None:
        header.set_qform(affine, code=1, strip_shears=True)
        header.set_sform(affine, code=1)
    elif np.abs(volume.grid().origin).max() > 1e-6:
        logger.warning(
            "'%s': its orientation is not known, so its origin %s µm is left out; see %s",
            name, volume.grid().origin, named("--orientation", "open_volume's orientation"),
        )  # fmt: skip
    head = io.BytesIO()
    header.write_to(head)
    offset = int(header["vox_offset"])
    _write_planes(path, name, head.getvalue().ljust(offset, b"\0")[:offset], image, "ctz", whole=True)


_NRRD_TYPES = {"float32": "float", "float64": "double"}


def _write_nrrd(path: Path, name: str, image: Planes) -> None:
    volume = image.volume
    affine = _ras(volume)
    if affine is not None:
        world, affine = "space: left-posterior-superior", np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    else:
        flip = np.eye(4)[[2, 1, 0, 3]]
        world, affine = "space dimension: 3", flip @ np.diag([1e-3, 1e-3, 1e-3, 1.0]) @ volume.grid().affine @ flip
    more = [(len(image.channels), "list"), (len(image.times), "time")]
    more = [(number, kind) for number, kind in more if number > 1]
    sizes = [*volume.shape[::-1], *(number for number, _ in more)]
    steps = " ".join([*map(_vector, affine[:3, :3].T), *("none" for _ in more)])
    lines = [
        "NRRD0005",
        f"type: {_NRRD_TYPES.get(image.dtype.name, image.dtype.name)}",
        f"dimension: {len(sizes)}",
        world,
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {steps}",
        f"kinds: {' '.join(['domain'] * 3 + [kind for _, kind in more])}",
        "endian: little",
        "encoding: gzip",
        'space units: "mm" "mm" "mm"',
        f"space origin: {_vector(affine[:3, 3])}",
    ]
    _write_planes(path, name, ("\n".join(lines) + "\n\n").encode("ascii"), image, "tcz", whole=False)


def _vector(values: np.ndarray) -> str:
    return f"({','.join(f'{float(v):.17g}' for v in values)})"


def _write_planes(path: Path, name: str, head: bytes, image: Planes, order: str, *, whole: bool) -> None:
    """A header and the voxels behind it; gzip holds both (`whole`, where the name ends in .gz), or the voxels alone."""
    with ExitStack() as stack:
        file: BinaryIO = stack.enter_context(open(path, "wb"))
        if whole and name.lower().endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile("", "wb", _FAST, file, mtime=0))  # type: ignore[assignment]
        file.write(head)
        if whole:
            for plane in image(order):
                file.write(plane.data)
            return
        packed = zlib.compressobj(_FAST, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        for plane in image(order):
            file.write(packed.compress(plane.data))
        file.write(packed.flush())
