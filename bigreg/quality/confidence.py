"""Where a registration may be wrong, without knowing the truth: the probability that a tile is off by over two voxels.

After registration, each tile of the fixed image is compared with the warped image around the same place and as it would
be moved by every step of a small window. Under independent noise the profile likelihood of a step with correlation r
over n samples is (1 - r^2)^(-n/2); the mean length of the steps, weighted so, is the error to be expected there. It is
large where another place fits better (a wrong match), where all places fit alike (no texture, or noise that hides it),
and where nothing fits (too large a motion). n is measured: what is left of moving after the regression is alike from
voxel to voxel where the structures differ, and is not where it is the noise of a camera, of which each voxel counts.
For the same reason all that is said of structure is taken from products of neighbouring voxels, in which independent
noise has no share. Where bright need not go with bright, moving is compared with a parabola of fixed in each window,
and r is the multiple correlation; the features then mean the same, and one model serves every similarity.

A logistic model weighs the expected error together with the local correlation, with the structure that there is and how
much of it lies along the direction that has least, here and around, with how sensitive a match is to what the images
differ in, and with how much of that is structure. How the map bends is left out, though it would tell more of these
pairs: a map that does not move where it should is not right. Its weights come from pairs with a known answer
(tests/benchmarks/RESULTS.md).
Where overlapping patches disagreed, the risk is at least that of a normal error of that size.

Arrays are (z, y, x); a voxel is one of the finest level of the ladder.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy import ndimage, special

from .confidence_cpu import step_sums
from .confidence_model import BIAS, FAR, MODEL, Model

TILE = 8
"""Voxels along an axis of a tile."""
HALO = 4
"""Tiles around a box of tiles that their features depend on."""
LARGE = 2.0
"""Voxels of the finest level; an error above this is what is looked for. Runs with another ladder.finest look for
another length: it is said in um beside each share."""
RISKY = 0.15
"""A tile of at least this risk is flagged; chosen so that few large errors are missed."""
STRUCTURED = 1.0
"""Of `detail`: a tile with less has nothing to be compared, whatever there is around it."""

STEP, REACH = 2, 2  # voxels of one step, and steps to either side along each axis
NOISE = 0.02  # intensity SD, of images scaled to about 0 .. 1, that means nothing
MOST_EVIDENCE = 1e4  # 1 / voxel^2: surer is no surer
FEW_SAMPLES = 8.0  # independent ones in a window of tissue without noise
FEWEST_SAMPLES = 4.0  # independent ones in a window, whatever its neighbours are like
MOST_ALIKE = 0.9  # correlation of neighbours
EMPTY, DARK = 0.5, 0.05  # of NOISE, and of the intensities: without structure and dark is no tissue


def features(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray, *, signed: bool = True) -> dict[str, np.ndarray]:
    """The model's features of the tiles of a box, each (tiles z, y, x); NaN where a tile cannot be judged.

    fixed, moving   images about 0 .. 1 on one grid of whole tiles, moving as the map brings it onto fixed
    mask            bool, where both are known
    signed          whether bright must go with bright; else moving may be any parabola of fixed within a window
    Right in the inner tiles, HALO from the box's sides; the sides themselves count as the border of the images.
    A tile cannot be judged where under half of it is in `mask`, nor where fixed shows structure and moving has no
    tissue.

    shift       log of the expected length of a step to where a tile's window fits best, voxels
    shift_soft  the same as if a window held few independent samples, whatever is left between the images
    fit         root of what fixed explains of moving in a tile's window, by its inverse hyperbolic tangent
    local       correlation within the tile, free of noise, by its inverse hyperbolic tangent
    texture     log of the SD of fixed in a tile's window, free of noise, in units of NOISE
    curvature   log of the RMS change of fixed a voxel along the direction with least of it, in units of NOISE
    evidence    log of what both images say of a displacement along the direction of which they say least: the precision
                (1 / voxel^2) of a match of a window by the gradients that they share and by what they differ in
    detail      as texture, of the tile alone
    alike       correlation of neighbours in what is left of moving after the regression: structure that does not match
    shift, local and curvature also as their mean over the tiles around, evidence as those over 3^3 and 5^3.
    """
    count = _cells(mask.astype(np.float32), STEP)
    own, known = _cells(count, TILE // STEP) / TILE**3, count >= STEP**3 / 2
    seen = (np.where(mask, image, 0).astype(np.float32, copy=False) for image in (fixed, moving))
    f, m = (_cells(image, STEP) / np.maximum(count, 1) for image in seen)
    explained, fit = _match(f, m, known, signed)
    lag = _neighbour_moments(f, m, known, signed)
    window = {name: _window(values) for name, values in lag.items()}
    left, left_beside = _unexplained(fit, window)
    alike = np.clip(left_beside / left, 0.0, MOST_ALIKE)
    samples = np.maximum(fit["n"] * ((1 - alike) / (1 + alike)) ** 3, FEWEST_SAMPLES)
    shift, soft = _expected_shift(explained, samples), _expected_shift(explained, FEW_SAMPLES)
    noises = {name: _noise_error(image, known, lag, name) for name, image in (("f", f), ("m", m))}
    local = _noise_free_correlation(fit, lag, noises, signed)
    smooth = [_smoothed(image, known) for image in (f, m)]
    gradients = [_gradient(image) for image in smooth]
    least = np.sqrt(_least(_tensor(gradients[0], gradients[0], known)))
    shared = fit["slope"] * _tensor(gradients[0], gradients[1], known)
    if not signed:
        bent = [2.0 * smooth[0] * g for g in gradients[0]]
        shared = shared + fit["bend"] * _tensor(bent, gradients[1], known)
    evidence = np.minimum(samples * _least(shared) / left, MOST_EVIDENCE)
    texture = np.sqrt(np.maximum(_beside(window, "f", "f"), 0))
    detail, detail_moving = (np.sqrt(np.maximum(_beside(lag, k, k) - 2 * noises[k], 0)) for k in ("f", "m"))
    blank = (detail_moving < EMPTY * NOISE) & (_mean(m, known) < DARK)
    empty = blank & (detail >= NOISE)
    found = {
        "shift": np.log(0.1 + shift),
        "shift_around": np.log(0.1 + _around(shift, own)),
        "shift_soft": np.log(0.1 + soft),
        "fit": np.arctanh(np.sqrt(explained[len(explained) // 2])),
        "local": np.arctanh(np.clip(local, 0.0, 0.999)),
        "local_around": np.arctanh(np.clip(_around(local, own), 0.0, 0.999)),
        "texture": np.log(0.1 + texture / NOISE),
        "curvature": np.log(0.02 + least / NOISE),
        "curvature_around": np.log(0.02 + _around(least, own) / NOISE),
        "evidence": np.log(1e-3 + _around(evidence, own, 1)),
        "evidence_around": np.log(1e-3 + _around(evidence, own)),
        "detail": np.log(0.1 + detail / NOISE),
        "alike": alike,
    }
    judged = (own >= 0.5) & ~empty
    return {name: np.where(judged, values, np.nan).astype(np.float32) for name, values in found.items()}


def said(large_um: Sequence[float]) -> str:
    """How a large error is named: in voxels of the finest level, and in um along z, y and x where they differ."""
    lengths = [f"{v:.3g}" for v in large_um]
    return f"{LARGE:g} voxels ({lengths[0] if len(set(lengths)) == 1 else ' × '.join(lengths)} µm)"


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


def _window(sums: np.ndarray) -> np.ndarray:
    """Sums over a tile and its neighbours, of sums over tiles (..., tiles)."""
    for axis in range(-3, 0):
        low, high = (np.moveaxis(sums, axis, 0)[part] for part in (slice(-1), slice(1, None)))
        sums = sums.copy()
        moved = np.moveaxis(sums, axis, 0)
        moved[1:] += low
        moved[:-1] += high
    return sums


def _match(f: np.ndarray, m: np.ndarray, known: np.ndarray, signed: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """How much of moving, a step away, fixed explains over a tile and its neighbours: (steps, tiles), 0 .. 1.

    f, m, known   fixed, moving and where both are known, in voxels of a step
    By linear regression with a slope of at least 0 (signed) or by a parabola; variances are at least those of NOISE.
    Also the regression where no step is made: n samples, slope, bend, and the variance of moving (each of tiles).
    """
    edge, steps = TILE // STEP, (2 * REACH + 1) ** 3
    weights = known.astype(np.float32)
    sums = np.empty((steps, 6 if signed else 9, *(n // edge for n in f.shape)), np.float32)
    step_sums(f, weights, np.pad(m, REACH), np.pad(weights, REACH), sums)
    out = np.empty((steps, *sums.shape[2:]), np.float32)
    for number, own in enumerate(sums):
        n, a, b, aa, bb, ab, *more = _window(own)
        n = np.maximum(n, 1.0)
        a, b = a / n, b / n
        raw = np.maximum(aa / n - a * a, 0)
        spread, whole, common = raw + NOISE**2, np.maximum(bb / n - b * b, 0) + NOISE**2, ab / n - a * b
        if signed:
            common = np.maximum(common, 0)
            slope, bend = common / spread, np.zeros_like(common)
            gained = slope * common
        else:  # what is left of the square of fixed beside fixed itself explains more
            aaa, aaaa, aab = (s / n for s in more)
            skew, twice = aaa - a * aa / n, aab - aa / n * b
            part = skew / spread
            own_spread = np.maximum(aaaa - (aa / n) ** 2 - part * skew, 0) + 4 * spread * NOISE**2
            bend = (twice - part * common) / own_spread
            slope = common / spread - bend * part
            gained = common**2 / spread + bend * (twice - part * common)
        out[number] = np.clip(gained / whole, 0.0, 0.998)
        if number == steps // 2:
            fit = {"n": n, "slope": slope, "bend": bend, "whole": whole, "left": whole * (1 - out[number])}
    return out, fit


def _neighbour_moments(f: np.ndarray, m: np.ndarray, known: np.ndarray, signed: bool) -> dict[str, np.ndarray]:
    """Sums over tiles of products of one image with another at the six neighbours of a voxel: free of noise.

    What is independent from voxel to voxel, as the noise of a camera, has no share in them. Keys: pairs of f, m, q
    (the square of fixed, where `signed` is False) and 1 (the weight).
    """
    weights = known.astype(np.float32)
    images = {"1": weights, "f": np.where(known, f, 0), "m": np.where(known, m, 0)}
    if not signed:
        images["q"] = images["f"] ** 2
    sums = {}
    for second, image in images.items():
        near = np.zeros_like(image)
        for axis in range(3):
            low, high = (tuple(s if k == axis else slice(None) for k in range(3)) for s in (slice(-1), slice(1, None)))
            near[low] += image[high]
            near[high] += image[low]
        for first in images:
            if second == "1" or (first != "1" and first <= second):
                sums[first + second] = _cells(images[first] * near, TILE // STEP)
    return sums


def _beside(sums: dict[str, np.ndarray], a: str, b: str) -> np.ndarray:
    """Covariance of one image with the other a voxel of a step beside."""
    n = np.maximum(sums["11"], 1.0)
    return sums[min(a, b) + max(a, b)] / n - sums[a + "1"] * sums[b + "1"] / n**2


def _unexplained(fit: dict[str, np.ndarray], window: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Variance of what is left of moving in a window, and its covariance with what is left beside."""
    slope, bend = fit["slope"], fit["bend"]
    beside = _beside(window, "m", "m") - 2 * slope * _beside(window, "f", "m") + slope**2 * _beside(window, "f", "f")
    if "fq" in window:
        beside += bend * (2 * slope * _beside(window, "f", "q") - 2 * _beside(window, "m", "q"))
        beside += bend**2 * _beside(window, "q", "q")
    return fit["left"], beside


def _noise_free_correlation(
    fit: dict[str, np.ndarray], sums: dict[str, np.ndarray], noises: dict[str, np.ndarray], signed: bool
) -> np.ndarray:
    """Correlation of moving with what the regression of the window makes of fixed, by neighbours.

    Where the noise that is left in a variance (`noises`) exceeds the structure, it tends to 0.
    """
    ridge = NOISE**2 + noises["f"]
    if signed:
        common, spread = _beside(sums, "f", "m"), _beside(sums, "f", "f")
    else:
        slope, bend = fit["slope"], fit["bend"]
        common = slope * _beside(sums, "f", "m") + bend * _beside(sums, "m", "q")
        spread = slope**2 * _beside(sums, "f", "f") + bend**2 * _beside(sums, "q", "q")
        spread += 2 * slope * bend * _beside(sums, "f", "q")
        ridge = (slope**2 + 1e-6) * ridge
    own = np.maximum(_beside(sums, "m", "m"), 0) + NOISE**2 + noises["m"]
    return common / np.sqrt((np.maximum(spread, 0) + ridge) * own)


def _mean(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean over the known part of each tile."""
    count = np.maximum(_cells(known.astype(np.float32), TILE // STEP), 1)
    return _cells(np.where(known, image, 0), TILE // STEP) / count


def _noise_error(image: np.ndarray, known: np.ndarray, sums: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Standard error that noise alone gives the covariance of an image with itself a voxel beside, in each tile."""
    whole = np.maximum(_mean(image**2, known) - _mean(image, known) ** 2, 0)
    return np.maximum(whole - _beside(sums, name, name), 0) / np.sqrt(np.maximum(sums["11"] / 2, 1))


def _smoothed(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Means over 3^3 voxels of a step, of the known ones."""
    weight = ndimage.uniform_filter(known.astype(np.float32), 3, mode="constant")
    return ndimage.uniform_filter(np.where(known, image, 0), 3, mode="constant") / np.maximum(weight, 1e-6)


def _expected_shift(explained: np.ndarray, samples: np.ndarray | float) -> np.ndarray:
    """Expected length (tiles) of the step to where it fits, voxels."""
    steps = np.array(list(product(range(-REACH, REACH + 1), repeat=3)), dtype=np.float32)
    length = STEP * np.sqrt((steps**2).sum(1))
    likelihood = -0.5 * samples * np.log1p(-explained)
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
