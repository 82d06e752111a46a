"""Where a registration may be wrong, without knowing the truth: the probability that a tile is off by over two voxels.

After registration, each tile of the fixed image is compared with the warped image around the same place and as it would
be moved by every step of a small window. Under independent noise the profile likelihood of a step with correlation r
over n samples is (1 - r^2)^(-n/2); the mean length of the steps, weighted so, is the error to be expected there. It is
large where another place fits better (a wrong match), where all places fit alike (no texture, or noise that hides it),
and where nothing fits (missing tissue, too large a motion). A logistic model weighs it against what the engine and the
stitching knew. Its weights come from pairs with a known answer (tests/benchmarks/confidence.py).

Arrays are (z, y, x); a voxel is one of the finest level of the ladder.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy import ndimage

from ..similarity import local_correlation

TILE = 8
"""Voxels along an axis of a tile."""
HALO = 4
"""Tiles around a box of tiles that their features depend on."""
LARGE = 2.0
"""Voxels; an error above this is what is looked for."""
RISKY = 0.5
"""A tile of at least this risk is flagged."""
STRUCTURED = 1.0
"""Of the feature `texture`: a tile with less has nothing to be compared."""

SCALES = {2: 1, 4: 2}  # voxels of one step: tiles on either side that its window reaches
REACH = 2  # steps to either side along each axis
RADIUS = 3  # voxels of the window of the local correlation
NOISE = 0.02  # intensity SD, of images scaled to about 0 .. 1, that means nothing
SAMPLES = 8.0  # independent ones in a window: neighbours are alike, and a window moves not quite as one
SHARP = 50.0  # the same, taken at its word
FEATURES = (
    "shift_2", "shift_4", "sharp_2", "shift_around", "local", "local_around", "window", "texture", "curvature",
    "curvature_around", "strain", "disagreement", "overlap",
)  # fmt: skip
WEIGHTS: dict[str, float] = {}
BIAS = 0.0


def features(
    fixed: np.ndarray,
    moving: np.ndarray,
    mask: np.ndarray,
    displacement: np.ndarray,
    disagreement: np.ndarray,
    *,
    signed: bool = True,
) -> dict[str, np.ndarray]:
    """FEATURES of the tiles of a box, each (tiles z, y, x); NaN where under half of a tile is in `mask`.

    fixed, moving   images about 0 .. 1 on one grid of whole tiles, moving as the map brings it onto fixed
    mask            bool, where both are known
    displacement    (3, tiles) of the map without its affine, voxels, at the tiles' centres
    disagreement    (tiles) of overlapping patches, voxels
    signed          whether bright must go with bright; else any correlation counts by its size
    Right in the inner tiles, HALO from the box's sides; the sides themselves count as the border of the images.
    """
    own = _cells(mask.astype(np.float32), TILE) / TILE**3
    found: dict[str, np.ndarray] = {}
    for step, around in SCALES.items():
        correlation, deviation = _match(fixed, moving, mask, step, around, signed)
        shift = _expected_shift(correlation, step, SAMPLES)
        found[f"shift_{step}"] = np.log(0.1 + shift)
        if step == min(SCALES):
            found["sharp_2"] = np.log(0.1 + _expected_shift(correlation, step, SHARP))
            found["window"] = np.arctanh(np.clip(correlation[len(correlation) // 2], 0.0, 0.999))
            found["texture"] = np.log(0.1 + deviation / NOISE)
            found["shift_around"] = np.log(0.1 + _around(shift, own, 2))
    least = _least_curvature(fixed, mask)
    found["curvature"] = np.log(0.02 + least / NOISE)
    found["curvature_around"] = np.log(0.02 + _around(least, own, 2) / NOISE)
    tensors = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in (fixed, moving, mask))
    correlation = local_correlation(*tensors, radius=RADIUS, noise=NOISE).numpy()
    local = _cells(correlation if signed else np.abs(correlation), TILE) / np.maximum(own * TILE**3, 1)
    found["local"] = np.arctanh(np.clip(local, 0.0, 0.999))
    found["local_around"] = np.arctanh(np.clip(_around(local, own, 2), 0.0, 0.999))
    gradients = [
        np.gradient(displacement, TILE, axis=a + 1) if own.shape[a] > 1 else 0 * displacement for a in range(3)
    ]
    found["strain"] = np.log(0.02 + np.sqrt(sum((g**2).sum(0) for g in gradients)))
    found["disagreement"] = np.log(0.05 + disagreement)
    found["overlap"] = _around(own, np.ones_like(own), 1)
    return {name: np.where(own >= 0.5, found[name], np.nan).astype(np.float32) for name in FEATURES}


def risk(found: dict[str, np.ndarray]) -> np.ndarray:
    """The probability that a tile is off by more than LARGE voxels, 0 .. 1, of its features; NaN stays."""
    total = BIAS + sum(weight * found[name] for name, weight in WEIGHTS.items())
    return (1.0 / (1.0 + np.exp(-total))).astype(np.float32)


def _cells(image: np.ndarray, width: int) -> np.ndarray:
    """Sums over cubes of `width` voxels of an image of whole cubes."""
    z, y, x = (n // width for n in image.shape)
    return image.reshape(z, width, y, width, x, width).sum((1, 3, 5))


def _around(values: np.ndarray, weight: np.ndarray, reach: int) -> np.ndarray:
    """Weighted mean over the tiles up to `reach` away; 0 where there is no weight."""
    total = ndimage.uniform_filter(np.stack([values * weight, weight]), (0, *(2 * reach + 1,) * 3), mode="constant")
    return total[0] / np.maximum(total[1], 1e-6)


def _coarse(image: np.ndarray, mask: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over the known voxels of each cube, and where at least half of it is known."""
    count = _cells(mask.astype(np.float32), factor)
    return _cells(np.where(mask, image, 0).astype(np.float32), factor) / np.maximum(count, 1), count >= factor**3 / 2


def _match(
    fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray, step: int, around: int, signed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation (steps, tiles) of each tile's window of fixed with moving a step away; SD (tiles) of fixed there."""
    f, known = _coarse(fixed, mask, step)
    m, _ = _coarse(moving, mask, step)
    width = TILE // step
    window = (0, *(2 * around + 1,) * 3)
    scale = float((2 * around + 1) ** 3)
    padded, padded_known = np.pad(m, REACH), np.pad(known, REACH)
    out = []
    for d in product(range(2 * REACH + 1), repeat=3):
        box = tuple(slice(a, a + n) for a, n in zip(d, f.shape, strict=True))
        w = (known & padded_known[box]).astype(np.float32)
        a, b = f * w, padded[box] * w
        sums = np.stack([_cells(v, width) for v in (w, a, b, a * a, b * b, a * b)])
        n, a, b, aa, bb, ab = ndimage.uniform_filter(sums, window, mode="constant") * scale
        n = np.maximum(n, 1.0)
        variance_a, variance_b = (np.maximum(s2 / n - (s / n) ** 2, 0) + NOISE**2 for s, s2 in ((a, aa), (b, bb)))
        r = (ab / n - a * b / n**2) / np.sqrt(variance_a * variance_b)
        out.append(np.maximum(r, 0) if signed else np.abs(r))
        if all(v == REACH for v in d):
            deviation = np.sqrt(np.maximum(variance_a - NOISE**2, 0))
    return np.stack(out), deviation


def _expected_shift(correlation: np.ndarray, step: int, samples: float) -> np.ndarray:
    """Expected length (tiles) of the step to where it fits, voxels, for so many independent samples."""
    steps = np.array(list(product(range(-REACH, REACH + 1), repeat=3)), dtype=np.float32)
    length = step * np.sqrt((steps**2).sum(1))
    likelihood = -0.5 * samples * np.log1p(-(np.minimum(correlation, 0.999) ** 2))
    weight = np.exp(likelihood - likelihood.max(0))
    return np.tensordot(length, weight, 1) / weight.sum(0)


def _least_curvature(fixed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(tiles) RMS change of intensity a voxel along the direction in which it changes least, around each tile.

    The square root of the smallest eigenvalue of the mean outer product of the gradient: what a Gauss-Newton step knows
    of that direction. It is small on an edge or a fibre, along which a match can slide.
    """
    f, known = _coarse(fixed, mask, 2)
    gradient = [np.gradient(f, 2.0, axis=a) if f.shape[a] > 1 else np.zeros_like(f) for a in range(3)]
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    sums = np.stack([_cells(gradient[i] * gradient[j] * known, TILE // 2) for i, j in pairs])
    sums = ndimage.uniform_filter(sums, (0, 3, 3, 3), mode="constant")
    count = ndimage.uniform_filter(_cells(known.astype(np.float32), TILE // 2), 3, mode="constant")
    a, b, c, d, e, g = sums / np.maximum(count, 1e-6)
    matrix = np.stack([np.stack([a, d, e], -1), np.stack([d, b, g], -1), np.stack([e, g, c], -1)], -1)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(matrix)[..., 0], 0)).astype(np.float32)
