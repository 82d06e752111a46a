"""NRRD: space directions and origin in full, `space units` where they are given.

A file without `space units` gives plain numbers. They are taken as micrometres if the smallest spacing is at least 1,
as millimetres if the largest is at most 0.1, and refused between, where either may be meant; `spacing` overrules it.
Raw local data is mapped; compressed data is loaded whole, once a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nrrd
import numpy as np

from ..errors import CorruptDataError, InputError
from ..storage import local_path
from .spec import ImageSpec
from .stored import BoxReader, LoadedOnce, StoredImage, StoredLevel, counts, label, open_binary, option, pick
from .units import micrometres

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


def open_nrrd(spec: ImageSpec, name: str) -> StoredImage:
    try:
        with open_binary(spec.path) as file:
            header = nrrd.read_header(file)
            offset = file.tell()
        dtype = _dtype(header)
    except (nrrd.NRRDError, ValueError, KeyError) as error:
        raise CorruptDataError(f"{label(name, spec)} cannot be read as NRRD: {error}; restore it") from error
    # The header counts axes from the fastest, x; the array that is read has them reversed.
    shape = tuple(int(n) for n in reversed(header["sizes"]))
    axes = _axes(header)
    read = BoxReader(_data(spec.path, header, offset, dtype), axes, pick(name, spec, axes, shape))
    affine, has_directions = _affine(header)
    if affine is not None:
        affine = np.diag([*[_unit(header, affine, spec, name)] * 3, 1.0]) @ affine
    box = read.per_axis(shape)
    return StoredImage(
        levels=(StoredLevel(box, np.eye(4) if affine is None else affine, box, read),),
        dtype=dtype,
        metadata={key: str(value) for key, value in header.items()},
        **counts(axes, shape),
        spacing_known=affine is not None,
        has_directions=has_directions,
        orientation=_orientation(header.get("space")),
    )


def _dtype(header: Mapping) -> np.dtype:
    code = next((code for code, names in _TYPES.items() if header["type"] in names), None)
    if code is None:
        raise ValueError(f"type '{header['type']}' is no number")
    return np.dtype(code).newbyteorder(">" if header.get("endian") == "big" else "<")


def _vectors(header: Mapping) -> list[np.ndarray | None]:
    """The step along each file axis; None along an axis that is not spatial."""
    rows = header.get("space directions")
    if rows is None:
        return []
    return [None if row is None or np.isnan(np.asarray(row, float)).any() else np.asarray(row, float) for row in rows]


def _axes(header: Mapping) -> str:
    """One letter an array axis (reversed file axes); an axis of colours, vectors or a list is the channel."""
    kinds = header.get("kinds") or []
    vectors = _vectors(header)
    letters, spatial = [], iter("xyz")
    for axis in range(len(header["sizes"])):
        kind = str(kinds[axis]).lower() if axis < len(kinds) else "domain"
        is_space = kind in ("domain", "space", "none", "???") if not vectors else vectors[axis] is not None
        letters.append(next(spatial, "?") if is_space else ("t" if kind == "time" else "c"))
    return "".join(reversed(letters))


def _affine(header: Mapping) -> tuple[np.ndarray | None, bool]:
    """Index (z, y, x) to header world (z, y, x) in the file's unit, and whether the file gives directions."""
    vectors = [vector for vector in _vectors(header) if vector is not None]
    affine = np.eye(4)
    if len(vectors) == 3:
        affine[:3, :3] = np.column_stack(vectors)[::-1, ::-1]
        affine[:3, 3] = np.asarray(header.get("space origin", np.zeros(3)), float)[::-1]
        return affine, True
    spacings = [float(s) for s in header.get("spacings", ()) if np.isfinite(s) and s > 0]
    if len(spacings) != 3:
        return None, False
    affine[:3, :3] = np.diag(spacings[::-1])
    return affine, False


def _unit(header: Mapping, affine: np.ndarray, spec: ImageSpec, name: str) -> float:
    """How many um the file's lengths are, by the rule at the top of this module."""
    units = {str(unit).strip('"') for unit in header.get("space units") or header.get("units") or []} - {"", "???"}
    if units:
        factors = {micrometres(unit) for unit in units}
        if len(factors) == 1 and None not in factors:
            return factors.pop()
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not units and steps.min() >= 1:
        return 1.0
    if not units and steps.max() <= 0.1:
        return 1000.0
    if spec.spacing is not None:
        return 1.0
    raise InputError(
        f"{label(name, spec)}: spacing {tuple(float(s) for s in steps[:3])} is in "
        f"{'unknown units ' + ', '.join(sorted(units)) if units else 'no stated unit'}; "
        f"pass {option(name, 'spacing')} Z Y X (um)"
    )


def _orientation(space: str | None) -> str | None:
    """Sides at which the world's (z, y, x) start: an axis that points to the left starts at the right."""
    text = str(space or "").lower()
    words = text.split("-")[:3]
    if len(text) in (3, 4) and "-" not in text:
        words = [_SPACE_LETTERS.get(letter, "") for letter in text[:3]]
    letters = [_OPPOSITE.get(word) for word in words]
    return "".join(reversed(letters)) if len(letters) == 3 and None not in letters else None


@dataclass(frozen=True)
class _Load:
    path: str

    def __call__(self) -> np.ndarray:
        local = local_path(self.path)
        if local is not None:
            return nrrd.read(str(local), index_order="C")[0]
        with open_binary(self.path) as file:
            header = nrrd.read_header(file)
            return nrrd.read_data(header, file, index_order="C")


def _data(path: str, header: Mapping, offset: int, dtype: np.dtype) -> Any:
    local = local_path(path)
    detached = any(key in header for key in ("data file", "datafile"))
    skips = any(header.get(key) for key in ("byte skip", "byteskip", "line skip", "lineskip"))
    if local is not None and header["encoding"] == "raw" and not detached and not skips:
        shape = tuple(int(n) for n in reversed(header["sizes"]))
        return np.memmap(local, dtype, "r", offset, shape)
    return LoadedOnce(path, _Load(path))
