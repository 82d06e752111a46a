"""NRRD: space directions and origin in full, `space units` where they are given.

A file without `space units` gives plain numbers. They are taken as micrometres if the smallest spacing is at least 1,
as millimetres if the largest is at most 0.1, and refused between, where either may be meant; `spacing` overrules it.
Raw local data is mapped; compressed data is loaded whole, once a process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import nrrd
import numpy as np

from ..errors import CorruptDataError, InputError
from ..storage import local_path
from .spec import ImageSpec
from .stored import BoxReader, LoadedOnce, StoredImage, StoredLevel, counts, label, open_binary, pick, unnamed_axes
from .units import figures, micrometres, numbers

_OPPOSITE = {"left": "r", "right": "l", "anterior": "p", "posterior": "a", "superior": "i", "inferior": "s"}
_SPACE_LETTERS = {"l": "left", "r": "right", "a": "anterior", "p": "posterior", "s": "superior", "i": "inferior"}
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}


# Fields that say where voxels are: one that cannot be read is not stated.
_PLACE = ("spacings", "units", "space units", "space directions", "space origin", "kinds", "axis mins", "axis maxs",
          "axismins", "axismaxs", "thicknesses", "centers", "centerings", "labels", "measurement frame")  # fmt: skip
_DECODED = ("raw", "gzip", "gz", "bzip2", "bz2", "ascii", "text", "txt")


def open_nrrd(spec: ImageSpec, name: str) -> StoredImage:
    try:
        with open_binary(spec.path) as file:
            header, unread = read_header(file)
            offset = file.tell()
        dtype = _dtype(header)
        # The header counts axes from the fastest, x; the array that is read has them reversed.
        shape = tuple(int(n) for n in reversed(header["sizes"]))
        if len(shape) != header["dimension"]:
            raise ValueError(f"dimension {header['dimension']} and sizes {header['sizes']} contradict each other")
    except (nrrd.NRRDError, ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"{label(name, spec)} cannot be read as NRRD: {error}; restore it") from error
    if header.get("encoding") not in _DECODED:
        raise InputError(
            f"{label(name, spec)}: NRRD encoding '{header.get('encoding')}' is not supported; write it again with gzip"
        )
    axes = _axes(header, spec, name)
    read = BoxReader(_data(spec.path, header, offset, dtype), axes, pick(name, spec, axes, shape))
    affine, has_directions = _affine(header, axes)
    unstated = f"{', '.join(unread)} cannot be read" if unread else _unused(header)
    factors: list[float] | None = [1.0] * 3
    guessed = ""
    if affine is not None:
        factors, unstated, guessed = _units(header, affine, axes)
        affine = np.diag([*(factors or [1.0] * 3), 1.0]) @ affine
    box = read.per_axis(shape)
    return StoredImage(
        levels=(StoredLevel(box, np.eye(4) if affine is None else affine, box, read),),
        dtype=dtype,
        metadata={key: str(value) for key, value in header.items()},
        **counts(axes, shape),
        spacing_known=affine is not None and factors is not None,
        has_directions=has_directions,
        orientation=_orientation(header.get("space")) if has_directions else None,
        spacing_from=f"{'space directions' if has_directions else 'spacings'}{guessed}",
        compression=str(header.get("encoding", "")),
        unstated=unstated,
    )


def read_header(file: BinaryIO) -> tuple[dict[str, Any], list[str]]:
    """The header, its text in UTF-8 or Latin-1, and the fields about place that cannot be read.

    `file` is left at the first byte of the data. Raises what pynrrd raises, ValueError where it is no NRRD.
    """
    lines: list[str] = []
    while raw := file.readline():
        try:
            line = raw.decode("utf-8").rstrip()
        except UnicodeDecodeError:
            line = raw.decode("latin-1").rstrip()
        if not line:
            break
        if len(lines) > 10000 or (not lines and not line.startswith("NRRD")):
            raise ValueError("it does not begin with NRRD")
        lines.append(line)
    if not lines:
        raise ValueError("it is empty")
    optional = {line: field for line in lines[1:] if (field := line.partition(":")[0].strip().lower()) in _PLACE}
    unread = []
    for line, field in optional.items():
        try:
            nrrd.read_header([lines[0], line])
        except Exception:  # what a parser of numbers raises on text
            unread.append(f"{field} '{line.partition(':')[2].strip()}'")
            lines.remove(line)
    return nrrd.read_header(lines), unread


def _dtype(header: Mapping[str, Any]) -> np.dtype:
    code = next((code for code, names in _TYPES.items() if header["type"] in names), None)
    if code is None:
        raise ValueError(f"type '{header['type']}' is not a number")
    return np.dtype(code).newbyteorder(">" if header.get("endian") == "big" else "<")


def _vectors(header: Mapping[str, Any]) -> list[np.ndarray | None]:
    """The step along each file axis; None along an axis that is not spatial."""
    rows = header.get("space directions")
    if rows is None:
        return []
    return [None if row is None or np.isnan(np.asarray(row, float)).any() else np.asarray(row, float) for row in rows]


def _axes(header: Mapping[str, Any], spec: ImageSpec, name: str) -> str:
    """One letter an array axis (reversed file axes); an axis of colours, vectors or a list is the channel."""
    kinds = header.get("kinds") or []
    vectors = _vectors(header)
    if not kinds and not vectors:
        return unnamed_axes(name, spec, tuple(int(n) for n in reversed(header["sizes"])))
    letters, spatial = [], iter("xyz")
    for axis in range(len(header["sizes"])):
        kind = str(kinds[axis]).lower() if axis < len(kinds) else "domain"
        is_space = kind in ("domain", "space", "none", "???") if not vectors else vectors[axis] is not None
        letters.append(next(spatial, "?") if is_space else ("t" if kind == "time" else "c"))
    return "".join(reversed(letters))


def _unused(header: Mapping[str, Any]) -> str:
    """Words for a voxel size that is stated in a way that says none."""
    for field in ("space directions", "spacings", "axis mins", "axismins", "thicknesses"):
        if field in header:
            values = [None if v is None else np.asarray(v, float).tolist() for v in header[field]]
            return f"its {field} {values} (x, y, z) are no voxel size"
    return ""


def _affine(header: Mapping[str, Any], axes: str) -> tuple[np.ndarray | None, bool]:
    """Index (z, y, x) to header world (z, y, x) in the file's unit, and whether the file gives directions."""
    vectors = [vector for vector in _vectors(header) if vector is not None]
    affine = np.eye(4)
    if len(vectors) == 3 and all(len(vector) == 3 for vector in vectors):
        affine[:3, :3] = np.column_stack(vectors)[::-1, ::-1]
        origin = np.asarray(header.get("space origin", np.zeros(3)), float)
        if origin.shape == (3,) and np.isfinite(origin).all():
            affine[:3, 3] = origin[::-1]
        if abs(np.linalg.det(affine[:3, :3])) > 1e-30:
            return affine, True
        return None, False
    spacings = numbers(_along(header, axes, "spacings"), 3, positive=True)
    if spacings is None:
        return None, False
    affine[:3, :3] = np.diag(spacings)
    lowest = numbers(_along(header, axes, "axis mins", "axismins"), 3)
    if lowest is not None:
        kinds = _along(header, axes, "centers", "centerings")
        cells = [str(kind).lower() == "cell" for kind in kinds]  # the least place is a cell's face, a node's centre
        affine[:3, 3] = np.asarray(lowest) + np.where(cells, np.asarray(spacings) / 2, 0.0)
    return affine, False


def _along(header: Mapping[str, Any], axes: str, *fields: str) -> list[Any]:
    """What a field, under any of its names, says of the z, y and x axes; None where it says nothing."""
    listed = next((header[field] for field in fields if header.get(field) is not None), ())
    known = dict(zip(reversed(axes), listed, strict=False))
    return [known.get(axis) for axis in "zyx"]


def _units(header: Mapping[str, Any], affine: np.ndarray, axes: str) -> tuple[list[float] | None, str, str]:
    """How many um the file's lengths along (z, y, x) are, by the rule at the top of this module.

    None and why where it is unknown; last what a person should know of it. `units` are those of the array's axes,
    `space units` those of the world's.
    """
    units = [str(unit).strip('"') for unit in header.get("space units") or []][:3][::-1]
    if not units:
        units = [str(unit or "").strip('"') for unit in _along(header, axes, "units")]
        if len(set(units)) > 1 and np.any(affine[:3, :3] - np.diag(np.diag(affine)[:3])):
            return None, f"units {', '.join(units)} (z, y, x) are not those of the axes of its space", ""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if set(units) - {"", "???"}:
        factors = [factor for unit in units if (factor := micrometres(unit)) is not None]
        if len(factors) == 3:
            return factors, "", ""
        return None, f"spacing {figures(steps)} (z, y, x) is in unknown units {', '.join(units)}", ""
    if steps.min() >= 1:
        return [1.0] * 3, "", "; its unit is not stated, taken as µm"
    if steps.max() <= 0.1:
        return [1000.0] * 3, "", "; its unit is not stated, taken as mm"
    return None, f"spacing {figures(steps)} is in no stated unit", ""


def _orientation(space: str | None) -> str | None:
    """Sides at which the world's (z, y, x) start: an axis that points to the left starts at the right."""
    text = str(space or "").lower()
    words = text.split("-")[:3]
    if len(text) in (3, 4) and "-" not in text:
        words = [_SPACE_LETTERS.get(letter, "") for letter in text[:3]]
    letters = [_OPPOSITE[word] for word in words if word in _OPPOSITE]
    return "".join(reversed(letters)) if len(words) == len(letters) == 3 else None


@dataclass(frozen=True)
class _Load:
    path: str

    def __call__(self) -> np.ndarray:
        local = local_path(self.path)
        with open_binary(self.path) as file:
            header, _ = read_header(file)
            values: np.ndarray = nrrd.read_data(header, file, None if local is None else str(local), index_order="C")
            return values


def _data(path: str, header: Mapping[str, Any], offset: int, dtype: np.dtype) -> Any:
    local = local_path(path)
    detached = any(key in header for key in ("data file", "datafile"))
    if detached and local is not None:
        _check_data_files(path, header)
    skips = any(header.get(key) for key in ("byte skip", "byteskip", "line skip", "lineskip"))
    if local is not None and header["encoding"] == "raw" and not detached and not skips:
        shape = tuple(int(n) for n in reversed(header["sizes"]))
        end, size = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, local.stat().st_size
        if end > size:
            raise CorruptDataError(
                f"'{path}' is truncated: its voxels end at byte {end} of {size}; copy it again from its source"
            )
        return np.memmap(local, dtype, "r", offset, shape)
    return LoadedOnce(path, _Load(path))


def _check_data_files(path: str, header: Mapping[str, Any]) -> None:
    named = str(header.get("data file", header.get("datafile")))
    if named.upper().startswith("LIST") or "%" in named:
        raise InputError(f"'{path}' keeps its data in several files ('{named}'), which is not supported; join them")
    if not os.path.exists(os.path.join(os.path.dirname(path), named)):
        raise InputError(f"'{path}': its data file '{named}' is not beside it; copy it there")
