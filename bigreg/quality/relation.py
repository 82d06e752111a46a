"""How two images that lie on each other are related: by contrast, and by how much of their structure they share.

Only tissue counts, away from its outline: bright tissue on a dark background looks alike in every contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

RADIUS = 3  # voxels of a window
NOISE = 0.02  # SD of intensities of about 0..1 that means nothing
OUTLINE = 2  # voxels from background that do not count
TISSUE = 0.25  # of the level of the tissue: dimmer is background
LEAST = 500  # voxels of tissue, or everything is looked at
STRUCTURED = 100  # windows with structure: fewer tell nothing


@dataclass(frozen=True)
class Relation:
    """What was measured of two images on one grid. None: too little structure to decide.

    sign         -1..1: how much more of the local correlation r is of bright with bright than of bright with dark,
                 sum of r |r| over sum of r^2, over windows with structure in both images
    agreement    0..1: mean |r| there
    unexplained  0..1 and more: the share of the fixed image's structure that no local linear function of moving
                 explains. Structure is what neighbouring voxels have in common: noise of fixed does not count,
                 strong noise of moving does
    tissue       share of the common voxels that was looked at
    """

    sign: float | None
    agreement: float | None
    unexplained: float | None
    tissue: float


def relation(fixed: np.ndarray, moving: np.ndarray, inside: np.ndarray, levels: tuple[float, float]) -> Relation:
    """Compare two images (z, y, x) of about 0..1 where `inside` is true; `levels`: how bright tissue is in each."""
    where = _inner(fixed, moving, inside, levels)
    share = float(where.sum() / max(inside.sum(), 1))
    if where.sum() < LEAST:
        where = inside
    a, b = (ndimage.gaussian_filter(image, 0.7) for image in (fixed, moving))
    both, own, other = _moments(a, b, inside)
    structured = where & (own > (2 * NOISE) ** 2) & (other > NOISE**2)
    if structured.sum() < STRUCTURED:
        return Relation(None, None, None, share)
    r = np.clip(both / np.sqrt(np.maximum(own * other, 1e-12)), -1, 1)[structured].astype(float)
    sign = float((r * np.abs(r)).sum() / max((r * r).sum(), 1e-12))
    return Relation(sign, float(np.abs(r).mean()), _unexplained(fixed, moving, where), share)


def _inner(fixed: np.ndarray, moving: np.ndarray, inside: np.ndarray, levels: tuple[float, float]) -> np.ndarray:
    """Where both images show tissue as far as OUTLINE voxels around."""
    kept = inside
    for image, level in zip((fixed, moving), levels, strict=True):
        kept = kept & ndimage.binary_erosion(tissue(image, level), np.ones((2 * OUTLINE + 1,) * 3), border_value=1)
    return kept


def tissue(image: np.ndarray, level: float) -> np.ndarray:
    """Where an image (z, y, x) shows tissue that is about so bright."""
    return ndimage.gaussian_filter(np.clip(image, 0, None), 1.5) > TISSUE * level


def _moments(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance and variances in the window around each voxel, of voxels inside."""
    mean = _window_mean(inside)
    ma, mb = mean(a), mean(b)
    return mean(a * b) - ma * mb, np.maximum(mean(a * a) - ma * ma, 0), np.maximum(mean(b * b) - mb * mb, 0)


def _window_mean(inside: np.ndarray):
    width = 2 * RADIUS + 1
    counts = np.maximum(ndimage.uniform_filter(inside.astype(np.float32), width, mode="constant"), 1e-6)
    return lambda x: ndimage.uniform_filter(np.where(inside, x, 0).astype(np.float32), width, mode="constant") / counts


def _unexplained(fixed: np.ndarray, moving: np.ndarray, where: np.ndarray) -> float | None:
    mean = _window_mean(where)
    f, m = (np.where(where, image - mean(image), 0) for image in (fixed, moving))
    rest = np.where(where, f - mean(f * m) / np.maximum(mean(m * m), 1e-6) * m, 0)
    whole, left = _neighbours(f), _neighbours(rest)
    return max(left / whole, 0.0) if whole > 0 else None


def _neighbours(image: np.ndarray) -> float:
    """Sum of the products of voxels and their next ones along each axis."""
    total = 0.0
    for axis in range(3):
        n = image.shape[axis]
        first, second = image.take(range(n - 1), axis), image.take(range(1, n), axis)
        total += float((first * second).sum(dtype=np.float64))
    return total
