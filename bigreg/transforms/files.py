"""Which file a map may come from: ITK's transforms and fields, a 4 x 4 as CSV, landmarks, an OME-Zarr scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import storage
from ..errors import ConfigError, InputError
from ..geometry import Grid
from . import landmarks, ngff
from .itk import MM, from_lps, read_transforms
from .itk_fields import SUFFIXES as FIELDS
from .itk_fields import read_field
from .maps import Affine, Field, Frame, Map, stored_field

MATRICES = (".txt", ".tfm", ".mat")
COMPOSITES = (".h5", ".hdf5")


def unit_um(unit: str) -> float:
    """um of one unit of an ITK file: mm or um. Raises ConfigError."""
    units = {"mm": MM, "um": 1.0}
    if unit not in units:
        raise ConfigError(f"unit {unit!r} is unknown; use mm (ITK's of NIfTI images) or um")
    return units[unit]


def axes_of(axes: str) -> str:
    """How an ITK file's axes lie: lps or xyz. Raises ConfigError."""
    if axes not in ("lps", "xyz"):
        raise ConfigError(f"axes {axes!r} are unknown; use lps or xyz")
    return axes


def open_maps(
    path: str, source: Frame | None = None, target: Frame | None = None, unit: float = MM
) -> tuple[Map, Map | None]:
    """The map of a file, from `source` to `target`, and its inverse where the file says one (matrices, scenes).

    unit   um that one of an ITK file's units is; the frames' orientations say how LPS lies in them
    Raises InputError where the path is no such file, CorruptDataError where it cannot be decoded.
    """
    source, target = source or Frame(), target or Frame()
    ends = Map((), source, target)
    local = storage.local_path(path)
    name = str(path).lower()
    if local is None or local.is_dir():
        return _scene(path, source, target)
    if not local.exists():
        raise InputError(f"'{path}' does not exist: neither a run nor a transform file is there; check the path")
    if name.endswith(FIELDS):
        found = from_lps([read_field(local, unit)], ends)
    elif name.endswith((*MATRICES, *COMPOSITES)):
        found = from_lps(read_transforms(local, unit), ends)
    elif name.endswith(".csv"):
        found = Map((Affine(read_csv(local)),), source, target)
    else:
        known = " ".join((*MATRICES, *COMPOSITES, *FIELDS, ".csv"))
        raise InputError(f"transform '{path}' is of unknown format; known are {known}, a run and an OME-Zarr scene")
    if found.matrix is None:
        return found, None
    return found, Map((Affine(np.linalg.inv(found.matrix)),), target, source)


def read_csv(path: Path) -> np.ndarray:
    """A 4 x 4 of four lines, fixed to moving world (z, y, x, um), or the fit of landmarks."""
    try:
        lines, separator = storage.table_rows(storage.decoded(path.read_bytes(), f"'{path}'")[0])
        rows = [[storage.number(v, separator) for v in row if v.strip()] for row in lines]
    except ValueError:  # words: landmarks have names
        return landmarks.fit(*landmarks.read_pairs(path))
    if [len(row) for row in rows] != [4] * 4:
        raise InputError(f"'{path}' is neither a 4 x 4 matrix of numbers nor landmarks; see `bigreg register --help`")
    matrix = np.array(rows)
    if not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise InputError(f"'{path}': {matrix.tolist()} is not an affine; its last line is 0,0,0,1")
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise InputError(f"'{path}': {matrix.tolist()} cannot be inverted")
    return matrix


def _scene(url: str, source: Frame, target: Frame) -> tuple[Map, Map]:
    return scene_maps(ngff.read_scene(url), source.orientation, target.orientation)


def scene_maps(scene: ngff.Scene, fixed: str | None = None, moving: str | None = None) -> tuple[Map, Map]:
    """Both directions of a scene; `fixed` and `moving` are the orientations of its frames."""
    ends = Frame(scene.fixed, fixed), Frame(scene.moving, moving)
    there = Map((_field(scene.fixed_to_moving, scene.fixed), Affine(scene.affine)), *ends)
    back = Map((_field(scene.moving_to_fixed, scene.moving), Affine(np.linalg.inv(scene.affine))), *ends[::-1])
    return there, back


def _field(url: str, frame: Grid | None) -> Field:
    reader = ngff.FieldReader(url)
    return stored_field(reader.read, reader.grids[0], frame)
