"""Pairs of landmarks: the CSV files they come in, and the affine that they say.

BigWarp's file has no header and eight columns: name, active, then moving x y z and fixed x y z in the images' units
(micrometres); a point that was not set yet is Infinity. Otherwise a header names fixed_z, fixed_y, fixed_x, moving_z,
moving_y, moving_x in any order, um, and perhaps name.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import storage
from ..errors import InputError
from .affine import about

COLUMNS = tuple(f"{which}_{axis}" for which in ("fixed", "moving") for axis in "zyx")
LEAST_AFFINE = 4
FLAT = 1e-3  # smallest over largest extent of points that span no volume


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Named pairs of points.

    fixed, moving   (N, 3) um (z, y, x); NaN where a point is not set yet
    active          (N,) bool; pairs that are not are kept, but not used
    Raises ValueError where the numbers of names and points differ.
    """

    names: tuple[str, ...]
    fixed: np.ndarray
    moving: np.ndarray
    active: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.names)
        shapes = np.shape(self.fixed), np.shape(self.moving), np.shape(self.active)
        if shapes != ((count, 3), (count, 3), (count,)):
            raise ValueError(f"{count} names, but fixed, moving and active of shapes {shapes}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def used(self) -> np.ndarray:
        """(N,) bool: active, and both points are set."""
        used: np.ndarray = self.active & np.isfinite(self.fixed).all(1) & np.isfinite(self.moving).all(1)
        return used


def landmarks(
    fixed: np.ndarray,
    moving: np.ndarray,
    names: Sequence[str] | None = None,
    active: Sequence[bool] | None = None,
) -> Landmarks:
    """Landmarks of points (N, 3), um (z, y, x); by default all active, with names Pt-0, Pt-1, ..."""
    fixed, moving = (np.asarray(p, dtype=float).reshape(-1, 3) for p in (fixed, moving))
    count = len(fixed)
    names = tuple(f"Pt-{i}" for i in range(count)) if names is None else tuple(names)
    return Landmarks(names, fixed, moving, np.ones(count, bool) if active is None else np.asarray(active, bool))


def read_landmarks(path: str | Path) -> Landmarks:
    """All pairs of a file, those that are inactive or not complete too.

    Raises InputError where the file is missing or holds no pairs.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"landmarks '{path}' cannot be read: {error.strerror}; check the path") from error
    return parse(storage.decoded(content, f"landmarks '{path}'")[0], str(path))


def parse(text: str, path: str) -> Landmarks:
    """The pairs in the text of a file; `path` is what it is called in errors. Raises InputError."""
    rows, separator = storage.table_rows(text)
    header = [name.strip() for name in rows[0]] if rows else []
    names, active = None, None
    try:
        if set(COLUMNS) <= set(header):
            order = [header.index(name) for name in COLUMNS]
            values = [[_coordinate(row[i], separator) for i in order] for row in rows[1:]]
            if "name" in header:
                names = [row[header.index("name")] for row in rows[1:]]
        elif rows and all(len(row) == 8 for row in rows):
            values = [[_coordinate(row[i], separator) for i in (7, 6, 5, 4, 3, 2)] for row in rows]
            names = [row[0] for row in rows]
            active = [row[1].strip().lower() != "false" for row in rows]
        else:
            raise InputError(
                f"'{path}' holds no pairs of landmarks: it has neither a header with {', '.join(COLUMNS)} nor the "
                "eight columns of BigWarp"
            )
    except (ValueError, IndexError) as error:
        raise InputError(f"landmarks '{path}': {error}; every pair needs six numbers") from error
    pairs = np.array(values, dtype=float).reshape(-1, 6)
    pairs[~np.isfinite(pairs)] = np.nan
    return landmarks(pairs[:, :3], pairs[:, 3:], names, active)


def _coordinate(cell: str, separator: str) -> float:
    """The number of a cell; an empty one is a point that is not placed yet."""
    return storage.number(cell, separator) if cell.strip() else np.nan


def read_pairs(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The fixed and the moving points, (N, 3) each, um (z, y, x), of the pairs that are active and complete.

    Raises InputError where the file is missing or holds no pairs.
    """
    found = read_landmarks(path)
    return found.fixed[found.used], found.moving[found.used]


def bigwarp_text(pairs: Landmarks) -> str:
    """Pairs as BigWarp's file holds them."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for name, active, f, m in zip(pairs.names, pairs.active, pairs.fixed[:, ::-1], pairs.moving[:, ::-1], strict=True):
        numbers = (f"{v:.6f}" if np.isfinite(v) else "Infinity" for v in (*m, *f))
        writer.writerow([name, "true" if active else "false", *numbers])
    return text.getvalue()


def write_bigwarp(path: Path, fixed: np.ndarray, moving: np.ndarray) -> None:
    """Pairs, (N, 3) each, um (z, y, x), as BigWarp reads them."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(bigwarp_text(landmarks(fixed, moving)))


def spans_volume(points: np.ndarray) -> bool:
    """Whether points (N, 3) do not lie in one plane."""
    return len(points) >= LEAST_AFFINE and _flatness(points)[2] > FLAT


def _flatness(points: np.ndarray) -> np.ndarray:
    """(3,) extents of points about their middle, largest first, as parts of the largest."""
    extent = np.linalg.svd(points - points.mean(0), compute_uv=False)
    parts: np.ndarray = extent / max(extent[0], 1e-300)
    return parts


def fit(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """The 4 x 4 that takes fixed points nearest to the moving ones: affine from 4 pairs on, rigid from 3.

    Raises InputError for fewer pairs, and for points on a line (or, of an affine, in a plane).
    """
    count = len(fixed)
    if count < 3:
        raise InputError(f"{count} pairs of landmarks are too few; a rigid start needs 3, an affine one 4")
    middle = fixed.mean(0), moving.mean(0)
    f, m = fixed - middle[0], moving - middle[1]
    for name, points in (("fixed", f), ("moving", m)):
        if _flatness(points)[2 if count >= LEAST_AFFINE else 1] <= FLAT:
            where = "plane: add a pair outside of it, or give three for a rigid start" if count > 3 else "line: add one"
            raise InputError(f"the {count} {name} landmarks lie in one {where}")
    if count >= LEAST_AFFINE:
        linear = np.linalg.lstsq(f, m, rcond=None)[0].T
    else:
        u, _, vt = np.linalg.svd(m.T @ f)  # Kabsch (1976)
        linear = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return about(linear, *middle)
