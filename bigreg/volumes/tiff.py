"""TIFF: a stack in one file (BigTIFF, OME-TIFF, ImageJ), a folder of slices, or a glob of slices; read lazily.

What is stored uncompressed and in one piece is mapped, tiles and strips are read one by one. A compressed page that is
one strip has to be decoded whole for any part of it: `bigreg convert` such stacks once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
import zarr

from ..errors import BigregError, CorruptDataError, InputError
from ..geometry import triple
from ..storage import local_path
from .levels import block_means, factors_by_shape
from .slices import open_slices
from .spec import ImageSpec
from .stored import (
    COLOURS,
    BoxReader,
    StoredImage,
    StoredLevel,
    counts,
    label,
    open_binary,
    option,
    pick,
    scaling,
    unnamed_axes,
)
from .tiff_calibration import calibration, keeps_signed, missing_ome_files, ome_images
from .tiff_channels import display_of

# How tifffile names the axis of pages it knows nothing else about.
_DEPTH_AXES = {"I": "z", "Q": "z", "S": "c"}


def open_tiff(spec: ImageSpec, name: str) -> StoredImage:
    local = local_path(spec.path)
    if local is not None and not local.is_file():
        return open_slices(spec, name, local)
    try:
        # A path is opened by tifffile itself; a URL becomes a file object that reads ranges.
        tiff = tifffile.TiffFile(str(local) if local is not None else open_binary(spec.path))
        notes = [] if ome_images(tiff) is not None else ["its OME-XML is not well formed and is not used"]
        with _told_otherwise() if notes else nullcontext():
            known = tiff.series
        if spec.dataset is None and _one_by_one(known):
            notes += [f"its {len(known)} images of one plane each are taken as the planes of a stack"]
            tiff = tifffile.TiffFile(tiff.filehandle, is_shaped=False)
            known = tiff.series
    except (OSError, MemoryError):
        raise
    except Exception as error:  # tifffile passes on what its parsers raise
        raise CorruptDataError(
            f"{label(name, spec)} cannot be read as TIFF: {error}; restore it from its source"
        ) from error
    number = _number(known, spec, name)
    series = known[number]
    _check_whole(tiff, number, spec, name)
    axes, found = _axes(series, spec, name)
    notes += found
    if series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        notes.append("it is to be shown with 0 as white (MinIsWhite); its numbers are taken as they are stored")
    picked = pick(name, spec, axes, series.shape)
    stated = calibration(tiff, number)
    base = scaling(stated.spacing or (1, 1, 1), stated.origin)
    signed = keeps_signed(tiff, np.dtype(series.dtype))
    counted = counts(axes, series.shape)
    levels: list[StoredLevel] = []
    for position, level in enumerate(series.levels):
        if position and any(page is None for page in level):
            notes.append(f"level {position} has planes that are missing; it is left out")
            continue
        array = zarr.open_array(series.aszarr(level=position), mode="r")
        read = BoxReader(_Signed(array) if signed else array, axes, picked)
        shape = read.per_axis(array.shape)
        affine = base @ _coarser(levels[0].shape, shape) if levels else base
        levels.append(StoredLevel(shape, affine, read.per_axis(array.chunks), read))
    return StoredImage(
        levels=tuple(levels),
        dtype=np.dtype("int16" if signed else series.dtype),
        metadata={"axes": series.axes, "shape": series.shape, "spacing": stated.spacing, "pages": len(tiff.pages)},
        **counted,
        display=display_of(tiff, number, **counted),
        spacing_known=stated.spacing is not None,
        notes=tuple(notes),
        spacing_from=stated.by,
        compression=tifffile.COMPRESSION(series.keyframe.compression).name.lower().replace("none", "not compressed"),
        unstated=stated.unstated,
        likely=stated.likely,
    )


@contextmanager
def _told_otherwise() -> Iterator[None]:
    """tifffile's own log is silent."""
    log = logging.getLogger("tifffile")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _one_by_one(known: list[tifffile.TiffPageSeries]) -> bool:
    """Whether a program has written the planes of a stack one after another, each as an image of its own."""
    kinds = {(series.kind, series.shape, series.axes, series.dtype) for series in known}
    return len(known) > 1 and len(kinds) == 1 and known[0].kind == "shaped" and known[0].axes == "YX"


def _number(known: list[tifffile.TiffPageSeries], spec: ImageSpec, name: str) -> int:
    """The series that spec.dataset names; without it the only one with planes. InputError where there are several."""
    if spec.dataset is not None:
        if not (spec.dataset.isdigit() and int(spec.dataset) < len(known)):
            count = f"there are {len(known)} series (0 to {len(known) - 1})"
            raise InputError(f"{label(name, spec)} does not exist; {count}")
        return int(spec.dataset)
    stacks = [n for n, series in enumerate(known) if int(np.prod(series.shape)) > int(np.prod(series.keyframe.shape))]
    if len(stacks) > 1:
        shown = ", ".join(f"{n} ({' x '.join(map(str, known[n].shape))})" for n in stacks[:5])
        raise InputError(
            f"{label(name, spec)} holds {len(stacks)} images: {shown}{', ...' if len(stacks) > 5 else ''}; "
            f"pass {option(name, 'dataset')} with the number of one"
        )
    return stacks[0] if stacks else 0


def _coarser(finest: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Where a sub-resolution lies in voxels of the finest: whole factors, else it covers the same area."""
    factors = factors_by_shape(triple(finest), triple(shape)) or np.asarray(finest) / shape
    return block_means(factors)


@dataclass(frozen=True)
class _Signed:
    """Unsigned numbers that stand for value - 32768."""

    array: Any

    def __getitem__(self, key: Any) -> np.ndarray:
        return (np.asarray(self.array[key]).astype("u2") ^ np.uint16(0x8000)).view("i2")


def _axes(series: tifffile.TiffPageSeries, spec: ImageSpec, name: str) -> tuple[str, list[str]]:
    """One letter an axis of the series, and what is told about them."""
    planes = series.axes.rstrip("S").removesuffix("YX")
    if len(planes) > 1 and set(planes) <= set("QI"):
        axes = unnamed_axes(name, spec, series.shape[: len(planes) + 2])
        return axes + "s" * (len(series.axes) - len(axes)), []
    axes = "".join(_DEPTH_AXES.get(letter, letter.lower()) for letter in series.axes)
    if "z" in axes and series.shape[axes.index("z")] > 1:
        return axes, []
    sizes = {letter: n for letter, n in zip(axes, series.shape, strict=True) if letter in "tc" and n > 1}
    for letter, word, asked in (("t", "time points", spec.time), ("c", "channels", spec.channel)):
        # Many programs save the planes of a stack as a time series.
        as_planes = sizes.get(letter, 0) > (COLOURS if letter == "c" else 1)
        if as_planes and asked is None and series.axes[axes.index(letter)] != "S":
            note = f"it has no z axis; its {sizes[letter]} {word} are taken as the planes of a stack"
            return axes.replace("z", "q").replace(letter, "z"), [note]
    return axes, []


def _check_whole(tiff: tifffile.TiffFile, number: int, spec: ImageSpec, name: str) -> None:
    """Nothing is read as black that is not there. Raises InputError, CorruptDataError."""
    called, series = label(name, spec), tiff.series[number]
    missing, master = missing_ome_files(tiff, number)
    if missing:
        raise InputError(
            f"{called} is one file of a series; missing beside it: {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}; copy them there"
        )
    if master:
        raise InputError(f"{called} is a part of the series that '{master}' describes; give '{master}' if it is a TIFF")
    try:
        _check_ends(tiff, series, called)
    except BigregError:
        raise
    except Exception as error:  # a page that cannot be parsed
        raise CorruptDataError(f"{called} cannot be read as TIFF: {error}; restore it from its source") from error
    if series.kind not in ("uniform", "generic", "shaped", "imagej"):
        absent = [index for index, page in enumerate(series) if page is None]
        if absent:
            raise InputError(
                f"{called}: {len(absent)} of its {len(series)} planes are missing, the first is plane {absent[0]}; "
                "copy the whole series"
            )
    compression = series.keyframe.compression
    try:
        tifffile.TIFF.DECOMPRESSORS[compression]
    except KeyError as error:
        word = getattr(compression, "name", compression)
        raise InputError(
            f"{called}: TIFF compression {word} is not supported; save it with LZW, deflate or zstd"
        ) from error


def _check_ends(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, called: str) -> None:
    """A copy that was broken off: pages or voxels beyond the end of the file."""
    broken = f"{called} is truncated: "
    remedy = "; copy it again from its source"
    size = tiff.filehandle.size
    start = series.dataoffset
    last = series[-1] if start is None else None
    if start is not None and start + series.nbytes > size:
        raise CorruptDataError(f"{broken}its voxels end at byte {start + series.nbytes} of {size}{remedy}")
    if last is not None and last.dataoffsets:
        end = max(a + n for a, n in zip(last.dataoffsets, last.databytecounts, strict=False))
        if end > last.parent.filehandle.size:
            raise CorruptDataError(f"{broken}its last plane ends at byte {end} of {size}{remedy}")
    images = (tiff.imagej_metadata or {}).get("images")
    if isinstance(images, int) and series.kind != "imagej" and images > len(tiff.pages):
        raise CorruptDataError(f"{broken}ImageJ states {images} planes, there are {len(tiff.pages)}{remedy}")
    if tiff.filehandle.is_file and series.kind in ("uniform", "generic", "shaped", "imagej", "ome"):
        slot = tiff.pages.next_page_offset
        assert slot is not None, "all pages were counted"
        tiff.filehandle.seek(slot)
        content = tiff.filehandle.read(tiff.tiff.offsetsize)
        follows = int.from_bytes(content, "little" if tiff.byteorder == "<" else "big")
        if follows >= size or len(content) < tiff.tiff.offsetsize:
            raise CorruptDataError(f"{broken}after {len(tiff.pages)} planes the next is beyond its end{remedy}")
