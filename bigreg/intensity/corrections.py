"""Background, bias, clipping and local contrast of an image, all from the histograms of its tiles.

    corrected = (stored - background) / bias, then clipped, then spread by the distribution around it

Background and bias are smooth between the tiles' centres. All are functions of a voxel's place and value alone, so any
box of the image, on any of its levels, is corrected alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

from ..geometry import Grid, Shape
from .tiles import BINS, Bins, Tiles

DIM = 10.0  # percentile of a tile that is taken for its background
LEAST_BIAS = 0.02  # of the mean: dimmer tissue is raised no further
LEVELS = 256  # of intensity that the local distribution is known at
DARK = 2.0  # times the scale of the bins: from there on ratios count and not differences
APART = 3.0  # widths of the dark that tissue is brighter by, where there is any dark
SLAB = 1 << 21  # voxels that are spread at once


@dataclass(frozen=True, eq=False)
class Corrections:
    """What to do to an image; None is not done.

    background, log_bias   one value a tile
    clip                   the corrected values that are the least and the most
    curves                 (tiles z, y, x, LEVELS): share of the tissue around that is darker, as clipped there
    """

    tiles: Tiles
    background: np.ndarray | None = None
    log_bias: np.ndarray | None = None
    clip: tuple[float, float] | None = None
    curves: np.ndarray | None = None

    def apply(self, values: np.ndarray, grid: Grid, start: Shape) -> np.ndarray:
        """Stored values (z, y, x) of a box that begins at index `start` of a level's grid, corrected, float32."""
        stop = tuple(a + n for a, n in zip(start, values.shape, strict=True))
        places = self.tiles.places(grid, start, stop)
        out = values.astype(np.float32)
        if self.background is not None:
            out -= between(self.background, places)
        if self.log_bias is not None:
            out *= np.exp(-between(self.log_bias, places))
        if self.clip is not None:
            np.clip(out, *self.clip, out=out)
        return out if self.curves is None else self._spread(out, places)

    def _spread(self, values: np.ndarray, places: Sequence[np.ndarray]) -> np.ndarray:
        assert self.clip is not None, "curves are made between limits"
        low, high = self.clip
        out = np.empty_like(values)
        rows = max(1, SLAB // max(1, int(np.prod(values.shape[1:]))))
        for z in range(0, len(values), rows):
            part = values[z : z + rows]
            level = (part - low) / (high - low) * (LEVELS - 1)
            where = np.broadcast_arrays(
                places[0][z : z + rows, None, None], places[1][:, None], places[2], level.astype(np.float64)
            )
            share = ndimage.map_coordinates(self.curves, where, np.float32, order=1, mode="nearest")
            out[z : z + rows] = low + (high - low) * share
        return out


def between(field: np.ndarray, places: Sequence[np.ndarray]) -> np.ndarray:
    """A value a tile (z, y, x), linear between the tiles' centres; beyond the outermost their own. float32."""
    out = field.astype(np.float32)
    for axis, place in enumerate(places):
        last = field.shape[axis] - 1
        place = np.clip(place, 0, last)
        low = np.minimum(np.floor(place).astype(int), max(last - 1, 0))
        share = (place - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        out = out.take(low, axis) * (1 - share) + out.take(np.minimum(low + 1, last), axis) * share
    return out


def corrections(
    histograms: np.ndarray,
    bins: Bins,
    tiles: Tiles,
    *,
    background_um: float | None = None,
    bias_um: float | None = None,
    clip: tuple[float, float] | None = None,
    contrast_um: float | None = None,
    contrast_limit: float = 3.0,
) -> Corrections:
    """The corrections of an image from the histograms of its tiles (z, y, x, BINS).

    background_um    what is dim in every window of this size is taken away: larger than what is to be kept
    bias_um          tissue is to be equally bright on average over this length
    clip             percentiles of the corrected image
    contrast_um      intensities are spread by their distribution within this window (after clipping)
    contrast_limit   how much steeper than the even one that may be
    """
    background = None if background_um is None else background_of(histograms, bins, tiles, background_um)
    bias = None if bias_um is None else log_bias_of(histograms, bins, tiles, bias_um, background)
    # Each tile's bins as they are after the correction at its centre.
    centres = np.broadcast_to(bins.centres, histograms.shape)
    if background is not None:
        centres = centres - background[..., None]
    if bias is not None:
        centres = centres * np.exp(-bias)[..., None]
    limits = None
    if clip is not None or contrast_um is not None:
        limits = weighted_percentiles(centres, histograms, clip or (0.0, 100.0))
    curves = None
    if contrast_um is not None:
        assert limits is not None, "made for it above"
        curves = curves_of(histograms, centres, limits, tiles, contrast_um, contrast_limit)
    return Corrections(tiles, background, bias, limits, curves)


def background_of(histograms: np.ndarray, bins: Bins, tiles: Tiles, length_um: float) -> np.ndarray:
    """The dim part of each tile, opened with a window: what is bright and smaller than it leaves no trace."""
    dim = percentile_of_tiles(histograms, bins, DIM)
    empty = ~histograms.any(-1)
    if empty.any() and not empty.all():  # of what a mask leaves out nothing is known but what is nearest
        nearest = ndimage.distance_transform_edt(empty, tiles.spacing, return_distances=False, return_indices=True)
        dim = dim[tuple(nearest)]
    window = np.maximum(np.rint(length_um / tiles.spacing), 1).astype(int)
    opened = ndimage.grey_opening(dim, size=tuple(int(n) for n in window), mode="nearest") if max(window) > 1 else dim
    return ndimage.gaussian_filter(opened, length_um / tiles.spacing / 4, mode="nearest")


def log_bias_of(
    histograms: np.ndarray, bins: Bins, tiles: Tiles, length_um: float, background: np.ndarray | None
) -> np.ndarray:
    """Logarithm of a smooth field that is proportional to the tissue's brightness; 0 on average over the tissue.

    Of each tile the mean logarithm of its tissue, weighted by how much that is.
    """
    values = np.broadcast_to(bins.centres, histograms.shape) - (0 if background is None else background[..., None])
    cut = tissue_from(np.log(bins.centres - bins.low + DARK * bins.scale), histograms.sum((0, 1, 2)))
    tissue = histograms * (np.arange(BINS) >= cut)
    weight = tissue.sum(-1).astype(float)
    mean = (np.log(np.maximum(values, bins.scale)) * tissue).sum(-1) / np.maximum(weight, 1)
    average = (mean * weight).sum() / max(weight.sum(), 1)
    some = mean[weight > 0] - average
    field = smooth_fit(mean - average, weight / max(weight.max(), 1), length_um / tiles.spacing)
    # Beyond the tissue the field is carried on as it rises or falls there, but not beyond what is seen anywhere.
    return np.clip(field, max(some.min(initial=0), np.log(LEAST_BIAS)), some.max(initial=0))


def smooth_fit(values: np.ndarray, weights: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The field that is near values where they have weight, and bends little over a length (z, y, x; in elements).

    Least squares with a penalty on second differences, so that a slope is no cost and is carried on where nothing is
    known. What has a wavelength of twice the length is halved.
    """
    bend = sparse.csr_matrix((values.size, values.size))
    eyes = [sparse.identity(n, format="csr") for n in values.shape]
    for axis, n in enumerate(values.shape):
        if n > 2:
            parts = [*eyes[:axis], sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], (n - 2, n)), *eyes[axis + 1 :]]
            second = sparse.kron(sparse.kron(parts[0], parts[1]), parts[2])
            bend = bend + (length[axis] / np.pi) ** 4 * (second.T @ second)
    system = (sparse.diags(weights.ravel() + 1e-9) + bend).tocsr()
    inverse = sparse.diags(1 / system.diagonal())
    begin = np.full(values.size, float((values * weights).sum() / max(weights.sum(), 1e-12)))
    found, _ = cg(system, (weights * values).ravel(), begin, rtol=1e-6, maxiter=2000, M=inverse)
    return found.reshape(values.shape)


def tissue_from(place: np.ndarray, counts: np.ndarray) -> int:
    """The first bin of tissue; 0 where there is but one kind of voxel.

    Otsu's (1979) threshold, if the two sides lie further apart than the darker one is wide.
    """
    cut = _between_two(place, counts) + 1
    dark, bright = (np.average(place[part], weights=counts[part]) for part in (slice(0, cut), slice(cut, None)))
    width = np.sqrt(np.average((place[:cut] - dark) ** 2, weights=counts[:cut]))
    return cut if bright - dark >= APART * width else 0


def _between_two(place: np.ndarray, counts: np.ndarray) -> int:
    """Otsu's (1979) threshold of a histogram: the last bin of the darker kind."""
    below, mass = np.cumsum(counts).astype(float), np.cumsum(counts * place)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (mass[-1] * below / below[-1] - mass) ** 2 / (below * (below[-1] - below))
    return int(np.nanargmax(np.where(np.isfinite(spread), spread, -1.0)))


def percentile_of_tiles(histograms: np.ndarray, bins: Bins, percent: float) -> np.ndarray:
    """(z, y, x) a percentile of each tile."""
    total = np.cumsum(histograms, -1)
    return bins.centres[(total < percent / 100 * total[..., -1:]).sum(-1).clip(0, BINS - 1)]


def weighted_percentiles(values: np.ndarray, weights: np.ndarray, percents: Sequence[float]) -> tuple[float, float]:
    """Percentiles of values that are there so often each."""
    some = weights > 0
    values, weights = values[some], weights[some]
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    found = [values[order][min(np.searchsorted(total, p / 100 * total[-1]), len(order) - 1)] for p in percents]
    low, high = (float(v) for v in found)
    return (low, high) if high > low else (low, low + 1e-6 * max(abs(low), 1e-6))


def curves_of(
    histograms: np.ndarray,
    values: np.ndarray,
    limits: tuple[float, float],
    tiles: Tiles,
    length_um: float,
    limit: float,
) -> np.ndarray:
    """(z, y, x, LEVELS) the distribution around each tile, of even steps between the limits, no steeper than `limit`.

    What a bin has too much is given to all alike (contrast limited equalisation, Zuiderveld 1994).
    """
    low, high = limits
    level = np.clip(np.rint((values - low) / (high - low) * (LEVELS - 1)), 0, LEVELS - 1).astype(np.int64)
    tile = np.arange(int(np.prod(histograms.shape[:3]))).reshape(histograms.shape[:3])[..., None]
    key = (tile * LEVELS + level).ravel()
    counts = np.bincount(key, histograms.ravel(), minlength=tile.size * LEVELS).reshape(*histograms.shape[:3], LEVELS)
    window = np.maximum(np.rint(length_um / tiles.spacing), 1).astype(int)
    counts = ndimage.uniform_filter(counts, (*window, 1), mode="constant")
    share = counts / np.maximum(counts.sum(-1, keepdims=True), 1e-12)
    most = limit / LEVELS
    for _ in range(8):
        excess = np.maximum(share - most, 0).sum(-1, keepdims=True)
        share = np.minimum(share, most) + excess / LEVELS
    curve = np.cumsum(share, -1)
    return ((curve - curve[..., :1]) / np.maximum(curve[..., -1:] - curve[..., :1], 1e-12)).astype(np.float32)
