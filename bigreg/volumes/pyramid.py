"""Coarser levels: which factors, and how voxels are gathered (means for images, the commonest label for labels)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..geometry import Grid, Shape, triple

# Axes whose spacing is within this of the finest are halved together, so that voxels end up nearly isotropic.
_TOGETHER = 2**0.5 * (1 + 1e-9)


def pyramid_factors(grid: Grid, smallest: int = 64) -> list[Shape]:
    """Cumulative factors (z, y, x) of the levels of a pyramid, from (1, 1, 1) on.

    Each level doubles the axes with the finest spacing until the longest axis has at most `smallest` voxels; an axis
    is never taken below one voxel.
    """
    shape, spacing = np.asarray(grid.shape), np.asarray(grid.spacing)
    factors = np.ones(3, dtype=int)
    levels = [(1, 1, 1)]
    while (shape // factors).max() > smallest:
        can = shape // (2 * factors) >= 1
        step = spacing * factors
        double = can & (step <= step[can].min() * _TOGETHER)
        factors = np.where(double, 2 * factors, factors)
        levels.append(triple(int(f) for f in factors))
    return levels


def block_mean(data: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Means over blocks of `factors` (z, y, x) voxels, in the dtype of `data` (integers rounded to the nearest).

    A remainder that fills no block is left out, as Grid.downsampled has it.
    """
    data, factors = _blocks(data, factors)
    # float32 holds sums of 16-bit voxels exactly; wider types need more.
    total = _sums(data.astype(_wide(data.dtype), copy=False), factors)
    return _stored(total / total.dtype.type(np.prod(factors)), data.dtype)


def weighted_block_mean(data: np.ndarray, weights: np.ndarray, factors: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Means over blocks of `factors` (z, y, x) voxels that count by their weights, and the mean weights, rounded down.

    data, weights   (z, y, x); weights integers of 0 and more. Where all of a block are 0 stands its plain mean.
    Dtypes and remainders are as in `block_mean`.
    """
    data, factors = _blocks(data, factors)
    weights, _ = _blocks(weights, factors)
    wide = _wide(data.dtype)
    share = _sums(weights.astype(wide), factors)
    none = share == 0
    total = _sums(data * weights.astype(wide), factors) / np.where(none, 1, share)
    if none.any():
        total[none] = (_sums(data.astype(wide, copy=False), factors) / wide.type(np.prod(factors)))[none]
    return _stored(total, data.dtype), np.floor(share / wide.type(np.prod(factors))).astype(weights.dtype)


def _wide(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float64 if dtype.itemsize > 2 and dtype != np.float32 else np.float32)


def _sums(total: np.ndarray, factors: Shape) -> np.ndarray:
    for axis, factor in enumerate(factors):
        if factor > 1:
            parts = [total[(slice(None),) * axis + (slice(i, None, factor),)] for i in range(factor)]
            total = sum(parts[2:], parts[0] + parts[1])
    return total


def _stored(mean: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (np.rint(mean) if dtype.kind in "biu" else mean).astype(dtype)


def block_mode(data: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """The commonest label of each block of `factors` (z, y, x) voxels; the smallest one where there is a tie."""
    data, factors = _blocks(data, factors)
    shape = [n for size, f in zip(data.shape, factors, strict=True) for n in (size // f, f)]
    votes = data.reshape(shape).transpose(1, 3, 5, 0, 2, 4).reshape(-1, *shape[::2])
    votes = np.sort(votes, axis=0)
    best, run = votes[0].copy(), np.ones(votes.shape[1:], dtype=np.int32)
    most = run.copy()
    for before, vote in pairwise(votes):
        run = np.where(vote == before, run + 1, 1)
        best = np.where(run > most, vote, best)
        most = np.maximum(most, run)
    found: np.ndarray = best
    return found


def downsample(data: np.ndarray, factors: Sequence[int], *, labels: bool = False) -> np.ndarray:
    return block_mode(data, factors) if labels else block_mean(data, factors)


def _blocks(data: np.ndarray, factors: Sequence[int]) -> tuple[np.ndarray, Shape]:
    factors = tuple(int(f) for f in factors)
    if data.ndim != 3 or len(factors) != 3 or any(not 1 <= f <= n for f, n in zip(factors, data.shape, strict=True)):
        raise ValueError(f"cannot downsample shape {data.shape} by {factors}")
    return data[tuple(slice(0, n // f * f) for n, f in zip(data.shape, factors, strict=True))], factors
