"""Both images at the resolution a level needs: a level of their own pyramid, or one that the run makes out of core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ... import storage
from ...errors import InputError
from ...geometry import Grid, Shape, triple
from ...transforms.positions import Positions
from ...volumes import downsample, weighted_block_mean
from ..labels import label
from ..store.store import RunStore
from . import weights
from .channels import is_labels
from .despeckled import Readable, Source
from .masks import SEEN, SourceMask
from .weights import Weights

if TYPE_CHECKING:
    from .seen import SeenImage

BLOCK = 128  # voxels along an axis of a block of a prepared level
BEYOND = 3  # voxels beyond a mask's edge to which what is inside is continued: as far as slopes inside may reach


@dataclass(frozen=True)
class Step:
    """Make `factors` (block averages of level 0, per index axis) out of `source`, at most a doubling away.

    source   None: the level is the image's own, and only its weights under a mask are made
    """

    factors: Shape
    source: Shape | None


def stored_level(volume: Source, factors: Shape) -> int | None:
    """The level of the volume's own pyramid that is the block mean by `factors`, half-voxel shift included."""
    wanted = volume.grid().downsampled(factors)
    for index, level in enumerate(volume.levels):
        near = np.allclose(level.grid.affine, wanted.affine, rtol=1e-6, atol=1e-3 * min(wanted.spacing))
        if near and all(a >= b for a, b in zip(level.grid.shape, wanted.shape, strict=True)):
            return index
    return None


def own_level(volume: Source, factors: Shape, mask: SourceMask | None = None) -> int | None:
    """The same where it may be compared: under a mask only up to the finest resolution, see `weights`."""
    if mask is not None and mask.padding is None and any(f > b for f, b in zip(factors, mask.base, strict=True)):
        return None
    return stored_level(volume, factors)


def grid_of(volume: Source, factors: Shape) -> Grid:
    """The grid of an image at one resolution, whether it is stored there or not."""
    level = stored_level(volume, factors)
    return volume.grid().downsampled(factors) if level is None else volume.grid(level)


def preparation(volume: Source, needed: list[Shape], mask: SourceMask | None = None) -> list[Step]:
    """The levels to make, in order, so that every one of `needed` can be read, and its weights under a mask."""
    steps: dict[Shape, Step] = {}

    def provide(factors: Shape) -> None:
        if factors in steps:
            return
        if own_level(volume, factors, mask) is not None:
            if mask is not None:
                steps[factors] = Step(factors, None)
            return
        source = triple(max(1, f // 2) for f in factors)
        provide(source)
        steps[factors] = Step(factors, source)

    for factors in sorted(needed, key=lambda f: int(np.prod(f))):
        provide(factors)
    return list(steps.values())


def title(which: str, step: Step) -> str:
    """What a step does, for people."""
    name = "x".join(map(str, step.factors))
    return label("mask" if step.source is None else "downsample", which=which, factors=name)


class LevelImage:
    """One image at one resolution: `grid` in its own world, `read(start, stop)` in stored values of `dtype`.

    weights   of its voxels under a given mask; None: all are compared
    """

    def __init__(self, store: RunStore, volume: Readable, factors: Shape, mask: SourceMask | None = None) -> None:
        self.volume = volume
        self._level = own_level(volume, factors, mask)
        self._array: storage.Array | None = None
        if self._level is not None:
            self.grid: Grid = volume.grid(self._level)
        else:
            self._array = store.array(*place(volume.name, factors), constant=True)
            self.grid = volume.grid().downsampled(factors)
        self.dtype: np.dtype = volume.dtype if self._array is None else self._array.dtype
        self.weights = None if mask is None else Weights(store, volume, factors, self.grid, mask, self._level)

    def read(self, start: Shape, stop: Shape) -> np.ndarray:
        """Voxels (z, y, x). What is not a finite number is 0 where a mask leaves it out; elsewhere InputError."""
        if self._array is not None:
            data = self._array.read(start, stop)
        else:
            assert self._level is not None, "a level is the image's own or an array of the run"
            data = self.volume.read(start, stop, self._level)
        if data.dtype.kind != "f" or (finite := np.isfinite(data)).all():
            return data
        name = self.volume.name
        left = ~finite if self.weights is None else ~finite & (self.weights.read(start, stop) > 0)
        if left.any():
            bad = triple(int(a + b) for a, b in zip(start, np.argwhere(left)[0], strict=True))
            kept = "" if self.weights is None else f" and {name}'s mask does not leave it out"
            raise not_finite(name, bad, self.grid, kept)
        return np.where(finite, data, data.dtype.type(0))


def not_finite(name: str, voxel: Shape, grid: Grid, kept: str = "") -> InputError:
    return InputError(
        f"{name}: voxel {voxel} of the image with spacing {grid.spacing} µm is not a finite number{kept}; leave such "
        f"voxels out with masks.{name}=finite or a mask, or replace NaN and Inf by the background value"
    )


def looked_up(image: LevelImage | SeenImage, positions: Positions) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An image (LevelImage or SeenImage) at points: values (1, ...), and which of them its mask lets be compared.

    Without a mask None, and the values are plain linear interpolation. With one, the voxels around a point count by
    their weights and a point is compared where they sum to half; just beyond, the values go on as they are inside, so
    that no slope sees the edge, and further on they are the mean.
    """
    weights = image.weights
    if weights is None:
        return positions.sample(image.read, image.grid), None

    def read(start: Shape, stop: Shape) -> np.ndarray:
        share = weights.shares(start, stop)
        return np.stack([image.read(start, stop) * share, share])

    total, share = positions.sample(read, image.grid)
    seen = share > SEEN
    values = torch.where(seen, total / share.clamp_min(SEEN), 0.0)[None]
    return values if bool(seen.all()) or values.ndim != 4 else _continued(values, seen), seen


def _continued(values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(1, z, y, x) values where `seen`; next to it the mean of the known neighbours, voxel by voxel, then the mean."""
    known = seen.to(values.dtype)[None]
    mean = (values * known).sum(dtype=torch.float64) / known.sum(dtype=torch.float64).clamp_min(1.0)
    for _ in range(BEYOND):
        both = F.avg_pool3d(torch.cat([values * known, known])[None], 3, stride=1, padding=1)[0]
        new = (both[1:] > 1e-3) & (known == 0)
        values = torch.where(new, both[:1] / both[1:].clamp_min(1e-3), values)
        known = torch.where(new, 1.0, known)
    return torch.where(known > 0, values, mean.to(values.dtype))


def place(name: str, factors: Shape) -> tuple[str, str, str]:
    return "images", name, "x".join(str(f) for f in factors)


def create_level(store: RunStore, volume: Readable, step: Step, mask: SourceMask | None = None) -> Shape:
    """Make the empty arrays of a prepared level; returns its numbers of blocks."""
    shape, chunks = extent_of(volume, step, mask)
    if mask is not None:
        weights.create(store, volume.name, step.factors, shape, chunks)
    if step.source is not None:
        dtype = made_dtype(volume)
        for depth in (1, 2):
            storage.create_group(store.path(*place(volume.name, step.factors)[:depth]), exist_ok=True)
        storage.create_array(
            store.path(*place(volume.name, step.factors)), shape=shape, dtype=dtype, chunks=chunks, exist_ok=True
        )
    return triple(-(-n // c) for n, c in zip(shape, chunks, strict=True))


def made_dtype(volume: Source) -> np.dtype:
    """Of the levels that are made of an image."""
    dtype = np.dtype(volume.dtype)
    if is_labels(volume.name):
        return dtype
    return dtype if dtype.kind in "uif" and dtype.itemsize <= 4 else np.dtype("float32")


def extent_of(volume: Source, step: Step, mask: SourceMask | None = None) -> tuple[Shape, Shape]:
    """Shape and chunks of what a step makes."""
    if step.source is None:
        level = own_level(volume, step.factors, mask)
        assert level is not None, "a step without a source is a level of the image's own"
        shape, block = volume.grid(level).shape, weights.BLOCK
    else:
        shape, block = volume.grid().downsampled(step.factors).shape, BLOCK
    return shape, triple(min(block, n) for n in shape)


def fill_level(store: RunStore, volume: Readable, step: Step, index: Shape, mask: SourceMask | None = None) -> None:
    """Compute one block of a prepared level."""
    shape, chunks = extent_of(volume, step, mask)
    start = triple(i * c for i, c in zip(index, chunks, strict=True))
    stop = triple(min(a + c, n) for a, c, n in zip(start, chunks, shape, strict=True))
    kept = None if mask is None else store.array(*weights.place(volume.name, step.factors), write=True)
    if step.source is None:
        own = LevelImage(store, volume, step.factors, mask).weights
        assert kept is not None and own is not None, "without a mask a step has a source"
        kept.write(start, own.found(start, stop))
        return
    source = LevelImage(store, volume, step.source, mask)
    ratio = tuple(f // s for f, s in zip(step.factors, step.source, strict=True))
    low, high = (triple(a * r for a, r in zip(corner, ratio, strict=True)) for corner in (start, stop))
    array = store.array(*place(volume.name, step.factors), write=True)
    data = source.read(low, high)
    if data.dtype != array.dtype:
        data = data.astype(array.dtype)
    if source.weights is None or kept is None:
        array.write(start, downsample(data, ratio, labels=is_labels(volume.name)))
        return
    means, counted = weighted_block_mean(data, source.weights.read(low, high), ratio)
    array.write(start, means)
    kept.write(start, counted)
