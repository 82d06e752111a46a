"""Pairs of landmarks: the CSV files they come in, and the affine that they say.

BigWarp's file has no header and eight columns: name, active, then moving x y z and fixed x y z in the images' units
(micrometres). Otherwise a header names fixed_z, fixed_y, fixed_x, moving_z, moving_y, moving_x in any order, um.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ..errors import InputError
from .affine import about

COLUMNS = tuple(f"{which}_{axis}" for which in ("fixed", "moving") for axis in "zyx")
LEAST_AFFINE = 4
FLAT = 1e-3  # smallest over largest extent of points that span no volume


def read_pairs(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The fixed and the moving points, (N, 3) each, um (z, y, x). BigWarp's inactive pairs are left out.

    Raises InputError where the file is missing or holds no pairs.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, skipinitialspace=True) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"landmarks '{path}' cannot be read: {error}; check the path") from error
    header = [name.strip() for name in rows[0]] if rows else []
    try:
        if set(COLUMNS) <= set(header):
            order = [header.index(name) for name in COLUMNS]
            values = [[float(row[i]) for i in order] for row in rows[1:]]
        elif rows and all(len(row) == 8 for row in rows):
            active = [row for row in rows if row[1].strip().lower() != "false"]
            values = [[float(row[i]) for i in (7, 6, 5, 4, 3, 2)] for row in active]
        else:
            raise InputError(
                f"'{path}' holds no pairs of landmarks: it has neither a header with {', '.join(COLUMNS)} nor the "
                "eight columns of BigWarp"
            )
    except (ValueError, IndexError) as error:
        raise InputError(f"landmarks '{path}': {error}; every pair needs six numbers") from error
    pairs = np.array(values, dtype=float).reshape(-1, 6)
    pairs = pairs[np.isfinite(pairs).all(1)]  # BigWarp writes Infinity where a point was not set yet
    return pairs[:, :3], pairs[:, 3:]


def write_bigwarp(path: Path, fixed: np.ndarray, moving: np.ndarray) -> None:
    """Pairs, (N, 3) each, um (z, y, x), as BigWarp reads them."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for number, (f, m) in enumerate(zip(fixed[:, ::-1], moving[:, ::-1], strict=True)):
            numbers = ",".join(f'"{v:.6f}"' for v in (*m, *f))
            file.write(f'"Pt-{number}","true",{numbers}\n')


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
        extent = np.linalg.svd(points, compute_uv=False)
        least = extent[2] if count >= LEAST_AFFINE else extent[1]
        if least <= FLAT * extent[0]:
            where = "plane: add a pair outside of it, or give three for a rigid start" if count > 3 else "line: add one"
            raise InputError(f"the {count} {name} landmarks lie in one {where}")
    if count >= LEAST_AFFINE:
        linear = np.linalg.lstsq(f, m, rcond=None)[0].T
    else:
        u, _, vt = np.linalg.svd(m.T @ f)  # Kabsch (1976)
        linear = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return about(linear, *middle)
