"""Coarser levels: which factors, and how voxels are gathered (means for images, the commonest label for labels)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..geometry import Grid, Shape

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
        levels.append(tuple(int(f) for f in factors))
    return levels


def block_mean(data: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Means over blocks of `factors` (z, y, x) voxels, in the dtype of `data` (integers rounded to the nearest).

    A remainder that fills no block is left out, as Grid.downsampled has it.
    """
    data, factors = _blocks(data, factors)
    # float32 holds sums of 16-bit voxels exactly; wider types need more.
    wide = data.dtype.itemsize > 2 and data.dtype != np.float32
    total = data.astype(np.float64 if wide else np.float32, copy=False)
    for axis, factor in enumerate(factors):
        if factor > 1:
            parts = [total[(slice(None),) * axis + (slice(i, None, factor),)] for i in range(factor)]
            total = sum(parts[2:], parts[0] + parts[1])
    mean = total / total.dtype.type(np.prod(factors))
    return (np.rint(mean) if data.dtype.kind in "biu" else mean).astype(data.dtype)


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
    return best


def downsample(data: np.ndarray, factors: Sequence[int], *, labels: bool = False) -> np.ndarray:
    return block_mode(data, factors) if labels else block_mean(data, factors)


def _blocks(data: np.ndarray, factors: Sequence[int]) -> tuple[np.ndarray, Shape]:
    factors = tuple(int(f) for f in factors)
    if data.ndim != 3 or len(factors) != 3 or any(not 1 <= f <= n for f, n in zip(factors, data.shape, strict=True)):
        raise ValueError(f"cannot downsample shape {data.shape} by {factors}")
    return data[tuple(slice(0, n // f * f) for n, f in zip(data.shape, factors, strict=True))], factors
