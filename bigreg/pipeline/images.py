"""Both images at the resolution a level needs: a level of their own pyramid, or one that the run makes out of core."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import storage
from ..errors import InputError
from ..geometry import Grid, Shape
from ..volumes import Volume, downsample
from .store import RunStore

BLOCK = 128  # voxels along an axis of a block of a prepared level


@dataclass(frozen=True)
class Step:
    """Make `factors` (block averages of level 0, per index axis) out of `source`, at most a doubling away."""

    factors: Shape
    source: Shape


def stored_level(volume: Volume, factors: Shape) -> int | None:
    """The level of the volume's own pyramid that is the block mean by `factors`, half-voxel shift included."""
    wanted = volume.grid().downsampled(factors)
    for index, level in enumerate(volume.levels):
        near = np.allclose(level.grid.affine, wanted.affine, rtol=1e-6, atol=1e-3 * min(wanted.spacing))
        if near and all(a >= b for a, b in zip(level.grid.shape, wanted.shape, strict=True)):
            return index
    return None


def grid_of(volume: Volume, factors: Shape) -> Grid:
    """The grid of an image at one resolution, whether it is stored there or not."""
    level = stored_level(volume, factors)
    return volume.grid().downsampled(factors) if level is None else volume.grid(level)


def preparation(volume: Volume, needed: list[Shape]) -> list[Step]:
    """The levels to make, in order, so that every one of `needed` can be read."""
    steps: dict[Shape, Step] = {}

    def provide(factors: Shape) -> None:
        if factors in steps or stored_level(volume, factors) is not None:
            return
        source = tuple(max(1, f // 2) for f in factors)
        provide(source)
        steps[factors] = Step(factors, source)

    for factors in sorted(needed, key=lambda f: int(np.prod(f))):
        provide(factors)
    return list(steps.values())


class LevelImage:
    """One image at one resolution: `grid` in its own world, `read(start, stop)` in stored values of `dtype`."""

    def __init__(self, store: RunStore, volume: Volume, factors: Shape) -> None:
        self.volume = volume
        self._level = stored_level(volume, factors)
        self._array: storage.Array | None = None
        if self._level is not None:
            self.grid: Grid = volume.grid(self._level)
        else:
            self._array = store.array(*place(volume.name, factors), constant=True)
            self.grid = volume.grid().downsampled(factors)
        self.dtype: np.dtype = volume.dtype if self._array is None else self._array.dtype

    def read(self, start: Shape, stop: Shape) -> np.ndarray:
        """Voxels (z, y, x). Raises InputError at a voxel that is not a finite number."""
        data = self.volume.read(start, stop, self._level) if self._array is None else self._array.read(start, stop)
        if data.dtype.kind == "f" and not np.isfinite(data).all():
            bad = tuple(int(a + b) for a, b in zip(start, np.argwhere(~np.isfinite(data))[0], strict=True))
            raise InputError(
                f"{self.volume.name}: voxel {bad} of the image with spacing {self.grid.spacing} um is not a finite "
                "number; replace NaN and Inf by the background value"
            )
        return data


def place(name: str, factors: Shape) -> tuple[str, str, str]:
    return "images", name, "x".join(str(f) for f in factors)


def create_level(store: RunStore, volume: Volume, step: Step) -> Shape:
    """Make the empty array of a prepared level; returns its numbers of blocks."""
    shape = volume.grid().downsampled(step.factors).shape
    dtype = volume.dtype if volume.dtype.kind in "uif" and volume.dtype.itemsize <= 4 else np.dtype("float32")
    chunks = tuple(min(BLOCK, n) for n in shape)
    for depth in (1, 2):
        storage.create_group(store.path(*place(volume.name, step.factors)[:depth]), exist_ok=True)
    storage.create_array(
        store.path(*place(volume.name, step.factors)), shape=shape, dtype=dtype, chunks=chunks, exist_ok=True
    )
    return tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))


def fill_level(store: RunStore, volume: Volume, step: Step, index: Shape) -> None:
    """Compute one block of a prepared level."""
    array = store.array(*place(volume.name, step.factors), write=True)
    source = LevelImage(store, volume, step.source)
    ratio = tuple(f // s for f, s in zip(step.factors, step.source, strict=True))
    start = tuple(i * c for i, c in zip(index, array.chunks, strict=True))
    stop = tuple(min(a + c, n) for a, c, n in zip(start, array.chunks, array.shape, strict=True))
    data = source.read(
        tuple(a * r for a, r in zip(start, ratio, strict=True)), tuple(b * r for b, r in zip(stop, ratio, strict=True))
    )
    if data.dtype != array.dtype:
        data = data.astype(array.dtype)
    array.write(start, downsample(data, ratio))
