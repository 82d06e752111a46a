"""A quick registration of two small images in one patch, in memory, to see how alike they can be made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from ..geometry import Lattice, triple
from ..transforms.bspline import evaluate
from .base import PatchPair
from .optimise import Optimise

CELL = 4  # voxels between control points
SQUARINGS = 3  # of the velocity's eighth
PASSES = ((4, 20), (2, 20), (1, 10))  # (voxels that are averaged along each axis, steps at most)


def bend(
    fixed: np.ndarray, moving: np.ndarray, inside: np.ndarray, *, similarity: str, regularisation: float,
    passes: Sequence[tuple[int, int]] = PASSES,
) -> np.ndarray:  # fmt: skip
    """Displacement (3, z, y, x) in voxels from fixed to where moving matches it, both (z, y, x) on one grid.

    inside: (z, y, x) bool, where both have data. Intensities are about 0..1.
    """
    found = np.zeros((3, *fixed.shape), np.float32)
    for factor, steps in passes:
        engine = Optimise(similarity=similarity, regularisation=regularisation, iterations=steps)
        there, known = seen_through(moving, inside, found)
        found = _composed(found, _looked(fixed, there, known, factor, engine))
    return found


def seen_through(image: np.ndarray, inside: np.ndarray, move: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image (z, y, x) through a displacement (3, z, y, x) in voxels, and where that is known."""
    places = np.indices(image.shape).astype(np.float32) + move
    values = ndimage.map_coordinates(image, places, order=1, mode="nearest", output=np.float32)
    share = ndimage.map_coordinates(inside.astype(np.float32), places, order=1, mode="constant")
    return values, share > 0.99


def strain(move: np.ndarray, where: np.ndarray) -> float:
    """Root mean square of the strain of a displacement (3, z, y, x) in voxels, beyond an affine map, where `where`."""
    at = np.stack([*np.indices(where.shape)[:, where], np.ones(where.sum())], axis=1)
    line = np.linalg.lstsq(at, move[:, where].T.astype(np.float64), rcond=None)[0][:3]
    slopes = np.array([[slope[where] for slope in np.gradient(component)] for component in move]) - line.T[:, :, None]
    return float(np.sqrt((((slopes + slopes.swapaxes(0, 1)) / 2) ** 2).sum((0, 1)).mean()))


def _looked(fixed: np.ndarray, moving: np.ndarray, known: np.ndarray, factor: int, engine: Optimise) -> np.ndarray:
    """What the engine moves at one resolution, as a displacement at the images' own."""
    unit = CELL * factor
    padding = [(0, -n % unit) for n in fixed.shape]
    images = [_means(np.pad(i, padding, mode="edge"), factor) for i in (fixed, moving)]
    inside = _means(np.pad(known.astype(np.float32), padding), factor) > 0.99
    f, m, mask = (torch.from_numpy(np.ascontiguousarray(i, dtype=np.float32)) for i in (*images, inside))
    lattice = Lattice(triple(n // CELL for n in f.shape), (float(CELL),) * 3, (0.0,) * 3, (CELL,) * 3)
    velocity = engine.estimate(PatchPair(f[None], m[None], mask, mask, lattice)).coefficients
    # Fixed moves by exp(v) and moving by exp(-v): from fixed to moving it is exp(-2 v).
    move = -2 * evaluate(velocity, (CELL,) * 3).numpy() / 2**SQUARINGS
    for _ in range(SQUARINGS):
        move = _composed(move, move)
    if factor > 1:
        at = (np.indices([n * factor for n in f.shape]) - (factor - 1) / 2) / factor
        move = np.stack([factor * ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in move])
    return move[(slice(None), *map(slice, fixed.shape))]


def _composed(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Displacement of `outer` after `inner`, voxels."""
    at = np.indices(outer.shape[1:]).astype(np.float32) + inner
    return inner + np.stack([ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in outer])


def _means(image: np.ndarray, width: int) -> np.ndarray:
    z, y, x = (n // width for n in image.shape)
    return image.reshape(z, width, y, width, x, width).mean((1, 3, 5), dtype=np.float32)
