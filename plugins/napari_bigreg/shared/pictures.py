"""Small pictures of arrays, as uint8 RGB; no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MAGENTA, GREEN = (1.0, 0.0, 1.0), (0.0, 1.0, 0.0)
Limits = tuple[float, float]


def stretched(image: np.ndarray, limits: Limits) -> np.ndarray:
    """Intensities as 0 .. 1, float32."""
    low, high = limits
    return np.clip((np.asarray(image, np.float32) - low) / max(high - low, 1e-12), 0, 1)


def blended(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Fixed (0 .. 1) in magenta and moving in green, (..., 3): grey where they agree."""
    return np.stack([fixed, moving, fixed], axis=-1)


def limits_of(image: np.ndarray) -> Limits:
    """A range for what has none: from the 1st to the 99.8th percentile of what is not 0."""
    seen = image[image != 0]
    if seen.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(seen, (1, 99.8)))
    return low, high if high > low else low + 1


def patch_tiles(
    patches: Any, plane: int, limits: dict[str, Limits | None], side: int = 150, gap: int = 4
) -> np.ndarray:
    """One z plane of a block's fixed, moving and warped patch and of fixed + warped, side by side, (rows, columns, 3).

    limits   of "fixed" and "moving"; None takes those of the patch
    side     pixels of a tile's longer edge
    """
    spacing = patches.grid.spacing
    fixed = stretched(patches.fixed[plane], limits.get("fixed") or limits_of(patches.fixed))
    range_ = limits.get("moving") or limits_of(patches.moving)
    moving, warped = (stretched(image[plane], range_) for image in (patches.moving, patches.warped))
    grey = [np.repeat(image[..., None], 3, axis=-1) for image in (fixed, moving, warped)]
    tiles = [enlarged(tile, spacing[1:], side) for tile in (*grey, blended(fixed, warped))]
    space = np.zeros((tiles[0].shape[0], gap, 3), np.float32)
    row = [part for tile in tiles for part in (tile, space)][:-1]
    return (np.concatenate(row, axis=1) * 255).astype(np.uint8)


def enlarged(image: np.ndarray, spacing: Sequence[float], side: int) -> np.ndarray:
    """Nearest neighbours, so that the longer edge has `side` pixels and the proportions are those of the world."""
    extent = np.multiply(image.shape[:2], spacing)
    size = np.maximum(np.rint(side * extent / extent.max()), 1).astype(int)
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * m // n, m - 1).astype(int) for n, m in zip(size, image.shape[:2], strict=True)
    )
    return image[rows][:, columns]
