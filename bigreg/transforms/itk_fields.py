"""Displacement fields as images: .nii, .nii.gz and .nrrd with three components a voxel, as ITK and ANTs have them.

The components are x, y, z of the LPS world, also in NIfTI, whose own axes are RAS; see itk.py. Writing is sequential
and holds a piece at a time. A .nii and a raw .nrrd are read where they lie, a compressed file is loaded whole.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

import nibabel
import nrrd
import numpy as np

from ..errors import CorruptDataError, InputError
from ..geometry import Grid, Shape
from .itk import Values, itk_grid, lps_grid, pieces
from .maps import Field

SUFFIXES = (".nii", ".nii.gz", ".nrrd")
_VECTOR, _DISPLACEMENT = 1007, 1006  # NIfTI's intents; ITK writes the first for any vector
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LARGEST = 32767  # samples along an axis of NIfTI-1


def write_field(path: Path, grid: Grid, values: Values, unit: float) -> None:
    """Write a field of the LPS world, by the suffix of `path`; `unit` is ITK's, in um."""
    if path.name.lower().endswith(".nrrd"):
        _write_nrrd(path, grid, values, unit)
    else:
        _write_nifti(path, grid, values, unit)


def _write_nrrd(path: Path, grid: Grid, values: Values, unit: float) -> None:
    size, origin, spacing, direction = itk_grid(grid, unit)
    vectors = [nrrd.format_vector(v) for v in (direction * spacing).T]
    lines = [
        "NRRD0004",
        "type: float",
        "dimension: 4",
        "space: left-posterior-superior",
        f"sizes: 3 {nrrd.format_number_list(size)}",
        f"space directions: none {' '.join(vectors)}",
        "kinds: vector domain domain domain",
        "endian: little",
        "encoding: raw",
        f"space origin: {nrrd.format_vector(origin)}",
    ]
    with open(path, "wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode("ascii"))
        for start, stop in pieces(grid.shape):
            file.write(np.ascontiguousarray(values(start, stop), "<f4").data)


def _write_nifti(path: Path, grid: Grid, values: Values, unit: float) -> None:
    size, origin, spacing, direction = itk_grid(grid, unit)
    if max(size) > _LARGEST:
        raise InputError(f"'{path.name}': NIfTI has at most {_LARGEST} samples along an axis, not {size}; write .nrrd")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape((*(int(n) for n in size), 1, 3))
    header.set_intent(_VECTOR)
    header.set_xyzt_units("mm", "sec")
    header.set_qform(_RAS @ affine, code="scanner")
    header.set_sform(_RAS @ affine, code="scanner")
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path, "wb", compresslevel=1) if packed else open(path, "wb") as file:
        header.write_to(file)
        file.write(bytes(header.get_data_offset() - file.tell()))
        # The component is the slowest axis, so the field is gone through once for each.
        for component in range(3):
            for start, stop in pieces(grid.shape):
                file.write(np.ascontiguousarray(values(start, stop)[..., component], "<f4").data)


def read_field(path: str | Path, unit: float) -> Field:
    """A field of the LPS world. Raises InputError where the file holds no 3-D displacements, CorruptDataError."""
    path = Path(path)
    try:
        if path.name.lower().endswith(".nrrd"):
            return _read_nrrd(path, unit)
        return _read_nifti(path, unit)
    except FileNotFoundError as error:
        raise InputError(f"field '{path}' does not exist; check the path") from error
    except (OSError, ValueError, KeyError, nrrd.NRRDError, nibabel.filebasedimages.ImageFileError) as error:
        raise CorruptDataError(f"'{path}' cannot be read as a displacement field: {error}; write it again") from error


def _read_nifti(path: Path, unit: float) -> Field:
    image = nibabel.load(path)
    assert isinstance(image, nibabel.Nifti1Image)
    shape, intent = image.shape, int(image.header["intent_code"])
    if len(shape) != 5 or shape[3:] != (1, 3) or intent not in (0, _VECTOR, _DISPLACEMENT):
        raise InputError(
            f"'{path}' (shape {shape}, intent {intent}) is not a displacement field of ITK: it has (x, y, z, 1, 3) and "
            f"intent {_VECTOR}"
        )
    # Displacements by their own intent are RAS, as NIfTI has it; ITK turns them on reading.
    signs = np.array([-1, -1, 1], np.float32) if intent == _DISPLACEMENT else np.ones(3, np.float32)
    factor = (signs[::-1] * np.float32(unit)).reshape(3, 1, 1, 1)
    grid = lps_grid(shape[:3], _RAS @ image.affine, unit)
    whole = path.name.lower().endswith(".gz")

    @cache
    def data() -> np.ndarray:
        return np.asanyarray(image.dataobj)

    def read(start: Shape, stop: Shape) -> np.ndarray:
        box = tuple(slice(a, b) for a, b in zip(start[::-1], stop[::-1], strict=True))
        values = data()[box] if whole else image.dataobj[(*box, slice(None), slice(None))]
        return np.ascontiguousarray(values[:, :, :, 0].T[::-1], np.float32) * factor

    return Field(read, grid)


def _read_nrrd(path: Path, unit: float) -> Field:
    with open(path, "rb") as file:
        header = nrrd.read_header(file)
        offset = file.tell()
    sizes = [int(n) for n in header["sizes"]]
    directions = header.get("space directions")
    if len(sizes) != 4 or sizes[0] != 3 or directions is None:
        raise InputError(f"'{path}' (sizes {sizes}) is not a displacement field of ITK: it has 3 x y z and directions")
    space = str(header.get("space", "")).lower()
    if space not in ("left-posterior-superior", "lps"):
        raise InputError(f"'{path}': its space is '{space}'; displacements are read in left-posterior-superior only")
    affine = np.eye(4)
    affine[:3, :3] = np.array([np.asarray(v, float) for v in directions[1:]]).T
    affine[:3, 3] = np.asarray(header.get("space origin", np.zeros(3)), float)
    kind = np.dtype({"float": "f4", "double": "f8"}[header["type"]])
    mapped = header["encoding"] == "raw" and "data file" not in header and "datafile" not in header
    order = kind.newbyteorder(">" if header.get("endian") == "big" else "<")

    @cache
    def data() -> np.ndarray:
        if mapped:
            return np.memmap(path, order, "r", offset, tuple(sizes[::-1]))
        values: np.ndarray = nrrd.read(str(path), index_order="C")[0]
        return values

    def read(start: Shape, stop: Shape) -> np.ndarray:
        box = data()[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        return np.ascontiguousarray(np.moveaxis(box[..., ::-1], -1, 0), np.float32) * np.float32(unit)

    return Field(read, lps_grid(sizes[1:], affine, unit))
