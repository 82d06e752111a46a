"""Maps that may be as right as the one that was found: where cells may lie, and so how many there are in a region.

At each tile the run says how far noise may have taken its map (sigma). To that comes what the images do not tell it: a
contrast that differs, a stiffness that is not the tissue's (LEAST). A sample moves the atlas by a displacement drawn at
random with this SD, along each axis, from a random field that varies as slowly as errors of registration do. It is
taken in as many equal steps as keep the change of each from a tile to the next below the tile's own size, so every
step, and with it the sample, is continuous and has a continuous inverse: a sample never folds. Seeds make samples
repeat.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ..geometry import Grid
from ..pipeline.run import Run
from ..quality.confidence import TILE

SAMPLES = 20
REACH = 0.75
"""Tiles: SD of the Gaussian that makes the random field smooth. Errors of known maps correlate by 0.65 from a tile to
the next and by 0.3 over two (see tests/benchmarks/intervals.py and RESULTS.md)."""
LEAST = 0.65
"""Voxels of the finest level: SD of what sigma does not know. With it the true count of a region lies in its interval
in about nine of ten regions, without it in half of them, where sigma is a third of the errors."""
STEEPEST = 0.8  # of a tile's size: how much the displacement of a step may change from tile to tile, along all axes
LOW, HIGH = 5.0, 95.0  # percentiles


class SampledMove:
    """One random displacement of the world that `tiles` (z, y, x) lie in.

    sigma   (3, z, y, x) um, SD along z, y and x of the world; NaN where nothing is known: taken from the nearest tile
            where something is
    """

    def __init__(self, tiles: Grid, sigma: np.ndarray, seed: int) -> None:
        rng = np.random.default_rng(seed)
        draws = rng.standard_normal((3, *tiles.shape), dtype=np.float32)
        smooth = np.stack([ndimage.gaussian_filter(d, REACH, mode="wrap") for d in draws])
        deviation = np.prod([_kept(n) for n in tiles.shape])
        world = (smooth / deviation * sigma).reshape(3, -1)
        self.inverse = tiles.inverse
        move = (self.inverse[:3, :3] @ world).reshape(3, *tiles.shape)
        steepest = max(sum(_largest(np.diff(part, axis=axis)) for axis in range(3)) for part in move)
        self.steps = max(1, int(np.ceil(steepest / STEEPEST)))
        self.move = (move / self.steps).astype(np.float32)
        self.back = np.linalg.inv(self.inverse)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) um to (N, 3); NaN stays."""
        known = np.isfinite(points).all(1)
        index = points[known] @ self.inverse[:3, :3].T + self.inverse[:3, 3]
        for _ in range(self.steps):
            at = index.T
            index = index + np.stack([ndimage.map_coordinates(m, at, order=1, mode="nearest") for m in self.move], 1)
        found = np.full_like(points, np.nan, dtype=float)
        found[known] = index @ self.back[:3, :3].T + self.back[:3, 3]
        return found


def sampled_moves(run: Run, count: int = SAMPLES) -> list[SampledMove]:
    """Displacements of the fixed world that a run's map may be off by, the same for the same run; none where it keeps
    no sigma or knows nothing."""
    if not run.keeps_sigma:
        return []
    tiles = run.sigma.grid()
    sigma = filled(run.sigma_at(_places(tiles)).T.reshape(3, *tiles.shape))
    if sigma is None:
        return []
    voxel = abs(np.linalg.det(tiles.affine[:3, :3])) ** (1 / 3) / TILE
    sigma = np.sqrt(sigma**2 + (LEAST * voxel) ** 2).astype(np.float32)
    return [SampledMove(tiles, sigma, seed) for seed in range(count)]


def filled(sigma: np.ndarray) -> np.ndarray | None:
    """(3, z, y, x) with the nearest known values where there are none; None where nothing is known."""
    known = np.isfinite(sigma).all(0)
    if not known.any():
        return None
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return sigma[:, *nearest]


def interval(count: int, sampled: Sequence[int]) -> tuple[int, int]:
    """The 5th and 95th percentile of a count through each sample, and as much further as the count itself lies."""
    low, high = np.percentile(sampled, [LOW, HIGH])
    return min(count, int(np.floor(low))), max(count, int(np.ceil(high)))


def _kept(size: int) -> float:
    """SD along an axis of so many tiles of white noise of SD 1 that was smoothed, on average between the tiles."""
    peak = np.zeros(size)
    peak[0] = 1.0
    kernel = ndimage.gaussian_filter1d(peak, REACH, mode="wrap")
    own, next_ = (float(kernel @ np.roll(kernel, shift)) for shift in (0, 1))
    return float(np.sqrt((2 * own + next_) / 3))


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max()) if values.size else 0.0


def _places(grid: Grid) -> np.ndarray:
    return grid.index_to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).reshape(-1, 3))
