"""An image that is finer than what it is resampled onto: averaged first, or it would alias.

Along each of the image's axes it is averaged over 2^n voxels, n the smallest with which a step of the output is at most
1.6 averaged voxels. The step is that of the map's affine part, so it is one number for the whole image, and no seams
come of it. Averages are read from the image's own pyramid where it holds them, and made of what is read otherwise.
Labels are not averaged: the commonest wins, always counted in the finest level.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from ...geometry import Grid, Shape, triple
from ...volumes import Volume, downsample
from ..context.images import stored_level

STEP = 1.6
"""Voxels of the image, after averaging, that neighbouring output voxels are apart at most."""
READ = 128
"""Voxels along an axis that are read at once to be averaged, so that memory does not grow with the factor."""


def averaging_factors(image: Grid, output: Grid, affine: np.ndarray) -> Shape:
    """By how much an image is averaged along its axes; `affine`: output world to image world, 4 x 4."""
    steps = np.linalg.norm((image.inverse @ affine @ output.affine)[:3, :3], axis=1)
    powers = np.ceil(np.log2(np.maximum(steps / STEP, 1.0)) - 1e-9).astype(int)
    return triple(int(min(2**p, 2 ** int(np.log2(n)))) for p, n in zip(powers, image.shape, strict=True))


class Averaged:
    """A volume as block means, or commonest labels, over `factors` voxels: `grid`, `dtype`, `read(start, stop)`."""

    def __init__(self, volume: Volume, factors: Shape, *, labels: bool = False) -> None:
        self.volume = volume
        self.labels = labels
        self.grid = volume.grid().downsampled(factors)
        self.dtype = volume.dtype
        self._level, self._left = 0, factors
        if not labels:
            # The coarsest level of the image's own pyramid that holds means over a part of the factors.
            for part in map(triple, sorted(product(*(_halves(f) for f in factors)), key=np.prod)):
                level = stored_level(volume, part)
                if level is not None:
                    self._level, self._left = level, triple(f // p for f, p in zip(factors, part, strict=True))

    def read(self, start: Shape, stop: Shape) -> np.ndarray:
        """Voxels (z, y, x) from index `start` up to `stop`."""
        if max(self._left) == 1:
            return self.volume.read(start, stop, self._level)
        out = np.empty([b - a for a, b in zip(start, stop, strict=True)], self.dtype)
        steps = [max(1, READ // f) for f in self._left]
        for low in product(*(range(a, b, s) for a, b, s in zip(start, stop, steps, strict=True))):
            high = tuple(min(a + s, b) for a, s, b in zip(low, steps, stop, strict=True))
            first, last = (triple(a * f for a, f in zip(corner, self._left, strict=True)) for corner in (low, high))
            box = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, start, strict=True))
            out[box] = downsample(self.volume.read(first, last, self._level), self._left, labels=self.labels)
        return out


def _halves(factor: int) -> list[int]:
    return [2**p for p in range(int(np.log2(factor)) + 1)]
