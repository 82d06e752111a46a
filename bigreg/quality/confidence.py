"""Where a registration may be wrong, without knowing the truth: the probability that a tile is off by over two voxels.

After registration, each tile of the fixed image is compared with the warped image around the same place and as it would
be moved by every step of a small window. Under independent noise the profile likelihood of a step with correlation r
over n samples is (1 - r^2)^(-n/2); the mean length of the steps, weighted so, is the error to be expected there. It is
large where another place fits better (a wrong match), where all places fit alike (no texture, or noise that hides it),
and where nothing fits (missing tissue, too large a motion). A logistic model weighs it together with the local
correlation, with the structure that there is and how much of it lies along the direction that has least, here and
around, and with how far the edge of the images is. Its weights come from pairs with a known answer
(tests/benchmarks/confidence.py). Where overlapping patches disagreed, the risk is at least that of a normal error of
that size.

Arrays are (z, y, x); a voxel is one of the finest level of the ladder.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy import ndimage, special

from ..similarity import local_correlation
from .confidence_cpu import step_sums

TILE = 8
"""Voxels along an axis of a tile."""
HALO = 4
"""Tiles around a box of tiles that their features depend on."""
LARGE = 2.0
"""Voxels; an error above this is what is looked for."""
RISKY = 0.17
"""A tile of at least this risk is flagged; chosen so that few large errors are missed."""
STRUCTURED = 1.0
"""Of `detail`: a tile with less has nothing to be compared, whatever there is around it."""

STEP, REACH = 2, 2  # voxels of one step, and steps to either side along each axis
RADIUS = 3  # voxels of the window of the local correlation
NOISE = 0.02  # intensity SD, of images scaled to about 0 .. 1, that means nothing
SAMPLES = 8.0  # independent ones in a window: neighbours are alike, and a window moves not quite as one
FEATURES = ("shift", "shift_around", "local", "local_around", "texture", "curvature", "curvature_around", "edge")
SQUARED = ("shift_around", "local_around", "texture", "curvature")
"""Those of which the model has all products of two."""
WEIGHTS: dict[str, float] = {
    "shift": 1.0307,
    "shift_around": -0.2008,
    "local": -2.3965,
    "local_around": -3.7111,
    "texture": 0.7715,
    "curvature": -1.2893,
    "curvature_around": 0.5873,
    "edge": -2.6193,
    "shift_around * shift_around": -0.1453,
    "shift_around * local_around": -0.4376,
    "shift_around * texture": 0.8017,
    "shift_around * curvature": -0.3366,
    "local_around * local_around": 0.3258,
    "local_around * texture": 1.4099,
    "local_around * curvature": 0.1207,
    "texture * texture": 0.4323,
    "texture * curvature": 0.3604,
    "curvature * curvature": 0.0593,
}
BIAS = -1.0372


def features(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray, *, signed: bool = True) -> dict[str, np.ndarray]:
    """FEATURES and `detail` of the tiles of a box, each (tiles z, y, x); NaN where under half of a tile is in `mask`.

    fixed, moving   images about 0 .. 1 on one grid of whole tiles, moving as the map brings it onto fixed
    mask            bool, where both are known
    signed          whether bright must go with bright; else any correlation counts by its size
    Right in the inner tiles, HALO from the box's sides; the sides themselves count as the border of the images.

    shift       log of the expected length of a step to where a tile's window fits best, voxels
    local       local correlation in windows of 2 RADIUS + 1 voxels, by its inverse hyperbolic tangent
    texture     log of the SD of fixed in a tile's window, in units of NOISE
    curvature   log of the RMS change of fixed a voxel along the direction with least of it, in units of NOISE
    edge        share of the 5^3 tiles around that is known: at the edge of the images there are fewer neighbours
    detail      as texture, of the tile alone; not a feature, it tells sample from the empty space beside it
    The first, second and fourth also as their mean over the tiles around.
    """
    own = _cells(mask.astype(np.float32), TILE) / TILE**3
    (f, known), (m, _) = (_coarse(image, mask, STEP) for image in (fixed, moving))
    correlation, deviation = _match(f, m, known, signed)
    shift = _expected_shift(correlation)
    tensors = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in (fixed, moving, mask))
    local = local_correlation(*tensors, radius=RADIUS, noise=NOISE).numpy()
    local = _cells(local if signed else np.abs(local), TILE) / np.maximum(own * TILE**3, 1)
    least = _least_curvature(f, known)
    found = {
        "shift": np.log(0.1 + shift),
        "shift_around": np.log(0.1 + _around(shift, own)),
        "local": np.arctanh(np.clip(local, 0.0, 0.999)),
        "local_around": np.arctanh(np.clip(_around(local, own), 0.0, 0.999)),
        "texture": np.log(0.1 + deviation / NOISE),
        "curvature": np.log(0.02 + least / NOISE),
        "curvature_around": np.log(0.02 + _around(least, own) / NOISE),
        "detail": np.log(0.1 + _deviation(f, known, TILE // STEP) / NOISE),
        "edge": ndimage.uniform_filter((own >= 0.5).astype(np.float32), 5, mode="constant"),
    }
    return {name: np.where(own >= 0.5, values, np.nan).astype(np.float32) for name, values in found.items()}


def terms(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model weighs: the features, and the products of two of SQUARED."""
    products = {f"{a} * {b}": found[a] * found[b] for i, a in enumerate(SQUARED) for b in SQUARED[i:]}
    return {**{name: found[name] for name in FEATURES}, **products}


def risk(found: dict[str, np.ndarray], disagreement: np.ndarray | None = None) -> np.ndarray:
    """The probability that a tile is off by more than LARGE voxels, 0 .. 1, of its features; NaN stays.

    disagreement   SD (tiles) of overlapping patches before blending, voxels
    """
    total = BIAS + sum(WEIGHTS[name] * values for name, values in terms(found).items())
    out = special.expit(total)
    if disagreement is not None:
        least = special.erfc(LARGE / np.maximum(disagreement, 1e-6) / np.sqrt(2))
        out = np.where(np.isnan(out), out, np.maximum(out, least))
    return out.astype(np.float32)


def _cells(image: np.ndarray, width: int) -> np.ndarray:
    """Sums over cubes of `width` voxels of an image of whole cubes."""
    z, y, x = (n // width for n in image.shape)
    planes = image.reshape(z, width, *image.shape[1:]).sum(1)  # axis by axis: numpy adds whole rows
    return planes.reshape(z, y, width, -1).sum(2).reshape(z, y, x, width).sum(3)


def _around(values: np.ndarray, weight: np.ndarray, reach: int = 2) -> np.ndarray:
    """Weighted mean over the tiles up to `reach` away; 0 where there is no weight."""
    total = ndimage.uniform_filter(np.stack([values * weight, weight]), (0, *(2 * reach + 1,) * 3), mode="constant")
    return total[0] / np.maximum(total[1], 1e-6)


def _coarse(image: np.ndarray, mask: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over the known voxels of each cube, and where at least half of it is known."""
    count = _cells(mask.astype(np.float32), factor)
    return _cells(np.where(mask, image, 0).astype(np.float32), factor) / np.maximum(count, 1), count >= factor**3 / 2


def _deviation(image: np.ndarray, known: np.ndarray, width: int) -> np.ndarray:
    """SD of the known part of each cube of `width` voxels of an image of whole cubes."""
    count = np.maximum(_cells(known.astype(np.float32), width), 1)
    mean = _cells(np.where(known, image, 0), width) / count
    difference = image - np.kron(mean, np.ones((width,) * 3, np.float32))
    return np.sqrt(_cells(np.where(known, difference**2, 0), width) / count)


def _match(f: np.ndarray, m: np.ndarray, known: np.ndarray, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Correlation (steps, tiles) with moving a step away, over a tile and its neighbours; SD (tiles) of fixed there.

    f, m, known   fixed, moving and where both are known, in voxels of a step
    """
    edge, steps = TILE // STEP, (2 * REACH + 1) ** 3
    weights = known.astype(np.float32)
    sums = np.empty((steps, 6, *(n // edge for n in f.shape)), np.float32)
    step_sums(f, weights, np.pad(m, REACH), np.pad(weights, REACH), sums)
    out = np.empty((steps, *sums.shape[2:]), np.float32)
    for number, own in enumerate(sums):
        n, a, b, aa, bb, ab = ndimage.uniform_filter(own, (0, 3, 3, 3), mode="constant") * 27.0
        n = np.maximum(n, 1.0)
        variance_a, variance_b = (np.maximum(s2 / n - (s / n) ** 2, 0) + NOISE**2 for s, s2 in ((a, aa), (b, bb)))
        r = (ab / n - a * b / n**2) / np.sqrt(variance_a * variance_b)
        out[number] = np.maximum(r, 0) if signed else np.abs(r)
        if number == steps // 2:
            deviation = np.sqrt(np.maximum(variance_a - NOISE**2, 0))
    return out, deviation


def _expected_shift(correlation: np.ndarray) -> np.ndarray:
    """Expected length (tiles) of the step to where it fits, voxels."""
    steps = np.array(list(product(range(-REACH, REACH + 1), repeat=3)), dtype=np.float32)
    length = STEP * np.sqrt((steps**2).sum(1))
    likelihood = -0.5 * SAMPLES * np.log1p(-(np.minimum(correlation, 0.999) ** 2))
    weight = np.exp(likelihood - likelihood.max(0))
    return np.tensordot(length, weight, 1) / weight.sum(0)


def _least_curvature(f: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(tiles) RMS change of intensity a voxel along the direction in which it changes least, around each tile.

    The square root of the smallest eigenvalue of the mean outer product of the gradient: what a Gauss-Newton step knows
    of that direction. It is small on an edge or a fibre, along which a match can slide.
    """
    gradient = [np.gradient(f, float(STEP), axis=a) if f.shape[a] > 1 else np.zeros_like(f) for a in range(3)]
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    sums = np.stack([_cells(gradient[i] * gradient[j] * known, TILE // STEP) for i, j in pairs])
    sums = ndimage.uniform_filter(sums, (0, 3, 3, 3), mode="constant")
    count = ndimage.uniform_filter(_cells(known.astype(np.float32), TILE // STEP), 3, mode="constant")
    a, b, c, d, e, g = sums / np.maximum(count, 1e-6)
    matrix = np.stack([np.stack([a, d, e], -1), np.stack([d, b, g], -1), np.stack([e, g, c], -1)], -1)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(matrix)[..., 0], 0)).astype(np.float32)
