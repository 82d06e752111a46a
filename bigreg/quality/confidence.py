"""Where a registration may be wrong, without knowing the truth: the probability that a tile is off by over two voxels.

After registration, each tile of the fixed image is compared with the warped image around the same place and as it would
be moved by every step of a small window. Under independent noise the profile likelihood of a step with correlation r
over n samples is (1 - r^2)^(-n/2); the mean length of the steps, weighted so, is the error to be expected there. It is
large where another place fits better (a wrong match), where all places fit alike (no texture, or noise that hides it),
and where nothing fits (missing tissue, too large a motion). A logistic model weighs it together with the local
correlation, with the structure that there is and how much of it lies along the direction that has least, here and
around, with how sensitive a match is to what the images differ in, noise above all, and with how far the edge of the
images is. How the map bends is left out, though it would tell more of these pairs: a map that does not move where it
should is not right. Its weights come from pairs with a known answer (tests/benchmarks/confidence.py).
Where overlapping patches disagreed, the risk is at least that of a normal error of that size.

Arrays are (z, y, x); a voxel is one of the finest level of the ladder.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy import ndimage, special

from ..similarity import local_correlation
from .confidence_cpu import step_sums
from .confidence_model import BIAS, FAR, MODEL, Model

TILE = 8
"""Voxels along an axis of a tile."""
HALO = 4
"""Tiles around a box of tiles that their features depend on."""
LARGE = 2.0
"""Voxels; an error above this is what is looked for."""
RISKY = 0.15
"""A tile of at least this risk is flagged; chosen so that few large errors are missed."""
STRUCTURED = 1.0
"""Of `detail`: a tile with less has nothing to be compared, whatever there is around it."""

STEP, REACH = 2, 2  # voxels of one step, and steps to either side along each axis
RADIUS = 3  # voxels of the window of the local correlation
NOISE = 0.02  # intensity SD, of images scaled to about 0 .. 1, that means nothing
MOST_EVIDENCE = 1e4  # 1 / voxel^2: surer is no surer
SAMPLES = 8.0  # independent ones in a window: neighbours are alike, and a window moves not quite as one


def features(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray, *, signed: bool = True) -> dict[str, np.ndarray]:
    """The model's features of the tiles of a box, each (tiles z, y, x); NaN where under half of a tile is in `mask`.

    fixed, moving   images about 0 .. 1 on one grid of whole tiles, moving as the map brings it onto fixed
    mask            bool, where both are known
    signed          whether bright must go with bright; else any correlation counts by its size
    Right in the inner tiles, HALO from the box's sides; the sides themselves count as the border of the images.

    shift       log of the expected length of a step to where a tile's window fits best, voxels
    local       local correlation in windows of 2 RADIUS + 1 voxels, by its inverse hyperbolic tangent
    texture     log of the SD of fixed in a tile's window, in units of NOISE
    curvature   log of the RMS change of fixed a voxel along the direction with least of it, in units of NOISE
    evidence    log of what both images say of a displacement along the direction of which they say least: the precision
                (1 / voxel^2) of a match of a tile by the gradients that they share and by what they differ in
    edge        share of the 5^3 tiles around that is known: at the edge of the images there are fewer neighbours
    detail      as texture, of the tile alone
    The first, second and fourth also as their mean over the tiles around, evidence as those over 3^3 and 5^3.
    """
    own = _cells(mask.astype(np.float32), TILE) / TILE**3
    (f, known), (m, _) = (_coarse(image, mask, STEP) for image in (fixed, moving))
    correlation, deviation = _match(f, m, known, signed)
    shift = _expected_shift(correlation)
    tensors = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in (fixed, moving, mask))
    local = local_correlation(*tensors, radius=RADIUS, noise=NOISE).numpy()
    local = _cells(local if signed else np.abs(local), TILE) / np.maximum(own * TILE**3, 1)
    gradients = _gradient(f), _gradient(m)
    least = np.sqrt(_least(_tensor(gradients[0], gradients[0], known)))
    unlike = (deviation**2 + NOISE**2) * (1 - np.minimum(correlation[len(correlation) // 2], 0.999) ** 2)
    shared = _tensor(*gradients, known)
    if not signed:
        shared = shared * np.sign(np.trace(shared))
    evidence = np.minimum((TILE // STEP) ** 3 * _least(shared) / unlike, MOST_EVIDENCE)
    found = {
        "shift": np.log(0.1 + shift),
        "shift_around": np.log(0.1 + _around(shift, own)),
        "local": np.arctanh(np.clip(local, 0.0, 0.999)),
        "local_around": np.arctanh(np.clip(_around(local, own), 0.0, 0.999)),
        "texture": np.log(0.1 + deviation / NOISE),
        "curvature": np.log(0.02 + least / NOISE),
        "curvature_around": np.log(0.02 + _around(least, own) / NOISE),
        "evidence": np.log(1e-3 + _around(evidence, own, 1)),
        "evidence_around": np.log(1e-3 + _around(evidence, own)),
        "detail": np.log(0.1 + _deviation(f, known, TILE // STEP) / NOISE),
        "edge": ndimage.uniform_filter((own >= 0.5).astype(np.float32), 5, mode="constant"),
    }
    return {name: np.where(own >= 0.5, values, np.nan).astype(np.float32) for name, values in found.items()}


def terms(found: dict[str, np.ndarray], model: Model = MODEL) -> np.ndarray:
    """(terms, ...) what a model weighs: the standard scores of the features, and all products of two of them."""
    scores = np.stack([np.clip((found[name] - row[0]) / row[1], -FAR, FAR) for name, row in model.items()])
    return np.concatenate([scores, *(scores[k] * scores[k:] for k in range(len(scores)))])


def risk(
    found: dict[str, np.ndarray], disagreement: np.ndarray | None = None, *, model: Model = MODEL, bias: float = BIAS
) -> np.ndarray:
    """The probability that a tile is off by more than LARGE voxels, 0 .. 1, of its features; NaN stays.

    disagreement   SD (tiles) of overlapping patches before blending, voxels
    """
    weights = [row[2] for row in model.values()] + [w for row in model.values() for w in row[3]]
    out = special.expit(bias + np.tensordot(np.array(weights), terms(found, model), 1))
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


def _gradient(image: np.ndarray) -> list[np.ndarray]:
    """Change of intensity a voxel along each axis, of an image in voxels of a step."""
    return [np.gradient(image, float(STEP), axis=a) if image.shape[a] > 1 else np.zeros_like(image) for a in range(3)]


def _tensor(a: list[np.ndarray], b: list[np.ndarray], known: np.ndarray) -> np.ndarray:
    """(3, 3, tiles) mean outer product of two gradients over a tile and its neighbours, its symmetric part."""
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    sums = np.stack([_cells((a[i] * b[j] + a[j] * b[i]) * (0.5 * known), TILE // STEP) for i, j in pairs])
    sums = ndimage.uniform_filter(sums, (0, 3, 3, 3), mode="constant")
    count = ndimage.uniform_filter(_cells(known.astype(np.float32), TILE // STEP), 3, mode="constant")
    zz, yy, xx, zy, zx, yx = sums / np.maximum(count, 1e-6)
    return np.array([[zz, zy, zx], [zy, yy, yx], [zx, yx, xx]])


def _least(tensor: np.ndarray) -> np.ndarray:
    """(tiles) smallest eigenvalue, at least 0: what a Gauss-Newton step knows of the direction of which it knows least.

    It is small on an edge or a fibre, along which a match can slide.
    """
    values = np.linalg.eigvalsh(np.moveaxis(tensor, (0, 1), (-2, -1)))[..., 0]
    return np.maximum(values, 0).astype(np.float32)
