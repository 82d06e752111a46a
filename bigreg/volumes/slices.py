"""A stack whose planes are TIFF files: a folder, or a glob."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tifffile

from ..errors import CorruptDataError, InputError
from ..geometry import Shape
from .slice_names import ordered
from .spec import ImageSpec
from .stored import StoredImage, StoredLevel, label, pick, scaling

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")


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
                page = tiff.pages.first
                if page.shape != self.shape:
                    raise InputError(f"slice '{path}' has shape {page.shape}, the first one {self.shape}")
                mapped = page.is_memmappable
                plane = tifffile.memmap(path, page=0, mode="r") if mapped else page.asarray()
                plane = plane if self.channel is None else plane[..., self.channel]
                return np.array(plane[box])
        except (tifffile.TiffFileError, ValueError, OSError, RuntimeError) as error:
            raise CorruptDataError(f"slice '{path}' cannot be decoded: {error}; restore it from its source") from error


def open_slices(spec: ImageSpec, name: str, local: Path) -> StoredImage:
    """The slices of a folder or glob, in the order of their numbers. Raises InputError for what is no one stack."""
    called = label(name, spec)
    paths = [path for path in _found(local) if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not paths:
        raise InputError(f"{called} holds no TIFF slices ({', '.join(SUFFIXES)}); check the path")
    if len(paths) == 1:
        raise InputError(f"{called} is 2-D: it holds the one file '{paths[0]}'; give that file if it is a stack")
    stack = ordered(paths, called, spec, name)
    files = tuple(str(path) for path in stack.paths)
    shape, dtype, chunks = _checked(files, called, sum(Path(path).stat().st_mtime_ns for path in files))
    colour = len(shape) == 3
    if colour and stack.channels > 1:
        raise InputError(f"{called}: its slices are of {shape[2]} colours and of {stack.channels} channels by name")
    picked = pick(name, spec, "zyxc" if colour else "zyx", (len(files), *shape)) if stack.channels == 1 else {}
    read = _Slices(files, shape, picked["c"] if colour else None)
    level = StoredLevel((len(files), shape[0], shape[1]), scaling((1, 1, 1)), (1, *chunks), read)
    return StoredImage(
        levels=(level,),
        dtype=dtype,
        metadata={"slices": [Path(path).name for path in files], "shape": shape, "dtype": str(dtype)},
        channels=shape[2] if colour else stack.channels,
        spacing_known=False,
    )


def _found(local: Path) -> list[Path]:
    """What lies in a folder, or is matched by a glob below the part of it that exists as it is."""
    if local.is_dir():
        return list(local.iterdir())
    root, parts = Path(local.anchor), list(local.parts[1:])
    while parts and (root / parts[0]).exists():
        root /= parts.pop(0)
    return [root / path for path in glob.glob("/".join(parts), root_dir=root, recursive=True)]


@cache
def _checked(paths: Sequence[str], called: str, version: int) -> tuple[tuple[int, ...], np.dtype, tuple[int, int]]:
    """Shape, dtype and chunks that all slices share, seen in their headers once a process and `version`."""
    with ThreadPoolExecutor(4) as pool:
        seen = pool.map(_header, paths)
        shape, dtype, pages, chunks = next(seen)
        if pages != 1 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] > 4):
            what = "several pages" if pages != 1 else f"one page of shape {shape}"
            raise InputError(
                f"{called}: slice '{paths[0]}' has {what}; slices must be 2-D, so give one file if each is a stack"
            )
        for path, other in zip(paths[1:], seen, strict=True):
            if other[:3] != (shape, dtype, pages):
                has = "several pages" if other[2] != 1 else f"shape {other[0]}, {other[1]}"
                raise InputError(
                    f"{called}: slice '{path}' has {has}, but '{paths[0]}' {shape}, {dtype}; "
                    "remove it or give one stack"
                )
    return shape, dtype, chunks


def _header(path: str) -> tuple[tuple[int, ...], np.dtype, int, tuple[int, int]]:
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            # Only one page is asked for beyond the first: counting the pages of a long stack takes long.
            pages = 2 if page.shape and _has_second(tiff) else 1
            chunks = (
                (page.tilelength, page.tilewidth)
                if page.is_tiled
                else (min(page.rowsperstrip, page.imagelength), page.imagewidth)
            )
            return page.shape, np.dtype(page.dtype), pages, chunks
    except (tifffile.TiffFileError, ValueError, IndexError) as error:
        raise CorruptDataError(f"slice '{path}' cannot be read as TIFF: {error}; restore it from its source") from error


def _has_second(tiff: tifffile.TiffFile) -> bool:
    try:
        return tiff.pages[1] is not None
    except IndexError:
        return False
