"""Whether the levels of an image are where their file says: shapes against stated spacings.

A wrong or missing factor follows from the shapes; a level that fits no whole factors is left out. Both are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..geometry import Numbers, Shape, triple
from .stored import StoredLevel, scaling
from .units import figures


def checked_levels(levels: tuple[StoredLevel, ...]) -> tuple[tuple[StoredLevel, ...], list[str]]:
    """The levels that can be used, finest first, each with its affine; and what is to be told about the others."""
    levels = tuple(sorted(levels, key=lambda level: -int(np.prod(level.shape))))
    base = levels[0]
    notes: list[str] = []
    place = _from_coarser(base, levels[1:]) if base.affine is None else base.affine
    base = replace(base, affine=place)
    kept = [base]
    for level in levels[1:]:
        stated = None if level.affine is None else _relative(base, level)
        if level.affine is not None and (stated is None or _fits(base.shape, level.shape, *stated)):
            kept.append(level)
            continue
        factors = factors_by_shape(base.shape, level.shape)
        if stated is None:
            found = f"the level of shape {level.shape} does not state its voxel size"
        else:
            found = f"the level of shape {level.shape} states factors {figures(stated[0])}, which do not fit the finest"
            found += f" of shape {base.shape}"
        if factors is None or factors == (1, 1, 1):
            notes.append(f"{found}; it is left out")
            continue
        notes.append(f"{found}; by its shape they are {figures(factors)}, which is used")
        kept.append(replace(level, affine=place @ block_means(factors)))
    return tuple(kept), notes


def block_means(factors: Numbers) -> np.ndarray:
    """Index of a level that holds means of blocks of `factors` (z, y, x) voxels to that of the finest."""
    step = np.asarray(factors, dtype=float)
    return scaling(step, (step - 1) / 2)


def _from_coarser(base: StoredLevel, coarser: Sequence[StoredLevel]) -> np.ndarray:
    for level in coarser:
        factors = factors_by_shape(base.shape, level.shape)
        if level.affine is not None and factors is not None:
            affine: np.ndarray = level.affine @ np.linalg.inv(block_means(factors))
            return affine
    return np.eye(4)


def factors_by_shape(finest: Shape, shape: Shape) -> Shape | None:
    """Whole factors (z, y, x) of which `shape` is `finest` over them, rounded down or up; None where there are none.

    Where several are possible: the one that divides, else a power of two, else the nearest.
    """
    found = []
    for full, size in zip(finest, shape, strict=True):
        about = full / size
        near = range(max(1, int(about / 2)), int(2 * about) + 2)
        candidates = [f for f in near if size in (max(1, full // f), -(-full // f))]
        if size < 1 or not candidates:
            return None
        found.append(min(candidates, key=lambda f: (f * size != full, f & (f - 1) != 0, abs(f - about))))
    return triple(found)


def _relative(base: StoredLevel, level: StoredLevel) -> tuple[np.ndarray, np.ndarray] | None:
    """Factors and shift of a level in voxels of the finest; None where it does not run along its axes."""
    assert base.affine is not None and level.affine is not None
    affine = np.linalg.inv(base.affine) @ level.affine
    factors = np.diag(affine)[:3]
    along = np.allclose(affine[:3, :3], np.diag(factors), atol=1e-6 * max(1.0, np.abs(factors).max()))
    return (factors, affine[:3, 3]) if along and (factors > 0).all() else None


def _fits(finest: Shape, shape: Shape, factors: np.ndarray, shift: np.ndarray) -> bool:
    """Sizes are rounded down or up, at every level anew; a level starts within its first two voxels."""
    sizes = np.abs(np.asarray(shape) - np.asarray(finest) / factors)
    return bool((sizes < 1 + 1e-6).all() and (np.abs(shift) <= 2 * factors).all())
