"""Which patches a step sees: a pure function of (seed, step, number in the whole batch), so that any process can say.

A training that goes on, or is spread over other numbers of processes, sees the same patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from ..errors import ConfigError, InputError
from ..geometry import Grid
from .config import Data
from .sources import Opened, Patch

TRIES = 200


class Purpose(IntEnum):
    """What random numbers are for; each has a stream of its own."""

    WEIGHTS = 0
    DRAW = 1
    CHANGE = 2
    HELD_OUT = 3
    SEAM = 4
    FLOW = 5


def stream(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """Random numbers of one purpose; equal keys, equal numbers."""
    return np.random.default_rng([seed, int(purpose), *key])


class Sampler:
    """Draws patches of `data.shape` voxels and `margin` more on every side of those that are to be deformed.

    part    of each source: train (its near end), held_out (the far end of its longest axis) or all
    """

    def __init__(self, sources: Sequence[Opened], data: Data, *, margin: int, part: str) -> None:
        self.sources, self.data, self.margin, self.part = list(sources), data, margin, part
        weights = np.array([s.source.weight for s in sources], dtype=float)
        self.chances = weights / weights.sum()
        for number in range(len(self.sources)):
            for scale in range(self.scales):
                self._range(number, scale)

    @property
    def scales(self) -> int:
        """How many voxel sizes there are."""
        return len(self.data.spacing or self.data.downsample)

    def _geometry(self, number: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
        """Spacing (um) and shape (voxels) of a patch."""
        source = self.sources[number]
        if self.data.spacing is not None:
            spacing = np.asarray(self.data.spacing[scale], dtype=float)
        else:
            spacing = source.spacing(self.data.downsample[scale])
        return spacing, np.asarray(self.data.shape) + 2 * self.margin * (len(source.volumes) == 1)

    def _range(self, number: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the first voxel's centre of a patch may lie, mid-space um. Raises ConfigError where none fits."""
        spacing, shape = self._geometry(number, scale)
        low, high = (np.array(b) for b in self.sources[number].box)
        axis = int(np.argmax(high - low))
        if self.part != "all":
            cut = high[axis] - self.data.held_out * (high[axis] - low[axis])
            (high if self.part == "train" else low)[axis] = cut
        extent = spacing * shape
        free = high - low - extent
        if self.part != "all" and free[axis] < 0:
            name = "data.held_out" if self.part == "held_out" else "1 - data.held_out"
            raise ConfigError(
                f"a patch with its margin is {extent[axis]:.0f} µm along axis {axis} and the part of source {number} "
                f"for it ({name}) {high[axis] - low[axis]:.0f} µm; make data.patch smaller or that part larger"
            )
        # A thin volume is seen whole, in the middle of the patch.
        first = np.where(free < 0, low + free / 2, low)
        return first + spacing / 2, np.maximum(free, 0.0)

    def draw(self, rng: np.random.Generator, source: int | None = None) -> Patch:
        """A patch with enough tissue. Raises InputError where none is found."""
        for _ in range(TRIES):
            number = int(rng.choice(len(self.sources), p=self.chances)) if source is None else source
            scale = int(rng.integers(self.scales))
            spacing, shape = self._geometry(number, scale)
            first, free = self._range(number, scale)
            opened = self.sources[number]
            origin = opened.snapped(first + rng.uniform(size=3) * free, spacing)
            patch = opened.read(Grid.from_spacing(tuple(shape), spacing, origin))
            if self._tissue(patch):
                return patch
        rule = self.data.tissue
        raise InputError(
            f"none of {TRIES} patches has enough tissue (mean {rule.least} to {rule.most}, at least {rule.share:.0%} "
            f"above {rule.level}); loosen data.tissue, or see whether data.intensity suits the images"
        )

    def _tissue(self, patch: Patch) -> bool:
        rule = self.data.tissue
        inner = patch.images
        if patch.synthetic and self.margin:
            inner = inner[(slice(None), *[slice(self.margin, -self.margin)] * 3)]
        means = inner.mean((1, 2, 3))
        shares = (inner > rule.level).mean((1, 2, 3))
        return bool((means >= rule.least).all() and (means <= rule.most).all() and (shares >= rule.share).all())
