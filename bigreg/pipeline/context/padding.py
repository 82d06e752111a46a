"""Whether an image is padded: one value, exactly, beyond flat faces of what was imaged.

Rotating, deskewing or stitching fills what lies around the data with one value, mostly 0, while the background of the
data has another. Its edge is then the strongest in the image, and moves with the frame, not with the tissue. A
background that was set to 0 around tissue looks alike but for its shape: its edge is the tissue's own, and says where
the tissue is. So padding is what

- holds exactly one value, in pieces that touch the image's border, over at least `LEAST` of the image,
- is hardly ever the value of data, and a step away from the data next to it, and
- ends in few flat faces.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
from scipy import ndimage

from ...geometry import Shape, triple
from ...volumes import Volume

LEAST = 0.005  # of the image; less does no harm
RARE = 0.01  # of the data at most hold its value
GAP = 0.02  # of the range of the data, up to the data next to it; less does no harm
LOWEST, BRIGHTEST = 1.0, 99.9  # percentiles of the data that are its range
SIDE = 96  # samples along the longest axis that the shape is judged by
FACES = 8  # so many flat faces at most
NEAR = math.cos(math.radians(10))  # of a face's own direction
FLAT = 0.6  # of the edge that must lie in such faces: a ball has .06, a box all but its own edges
MOST_BYTES = 2**31  # of an image without a pyramid that are read to find out
CORNER = 2  # voxels along an axis of a corner; padding fills one at least
SLAB_BYTES = 2**26
MARGIN = 2  # voxels around a box that say what in it is padding
TOGETHER = 9  # of the 27 voxels around one of padding, at least; beyond the image all are


_KNOWN: WeakKeyDictionary[Volume, float | None] = WeakKeyDictionary()  # a look at a pair and its run ask alike


def padding_of(volume: Volume, *, always: bool = False) -> float | None:
    """The value that an image (its channel and time point) is padded with; None where it is not.

    Reads the corners, and where one is constant the level of its pyramid that has about SIDE voxels along the longest
    axis. Of an image without a pyramid all is read up to MOST_BYTES; a larger one is taken to have no padding unless
    `always`.
    """
    level = max((n for n, each in enumerate(volume.levels) if max(each.grid.shape) >= SIDE), default=0)
    values = _corners(volume)
    size = math.prod(volume.grid(level).shape) * volume.dtype.itemsize
    if not values or (size > MOST_BYTES and not always):
        return None
    if volume not in _KNOWN:
        seen = _samples(volume, level)
        _KNOWN[volume] = next((value for value in values if _is_padding(seen, value)), None)
    return _KNOWN[volume]


def padded(
    read: Callable[[Shape, Shape], np.ndarray], shape: Shape, start: Shape, stop: Shape, value: float
) -> np.ndarray:
    """(z, y, x) bool: the voxels of a box that are padding, or next to it, where interpolation may have mixed both.

    read    boxes of a level with `shape`. Single voxels of the data that happen to hold `value` are no padding.
    """
    low = triple(max(0, a - MARGIN) for a in start)
    high = triple(min(n, b + MARGIN) for n, b in zip(shape, stop, strict=True))
    same = read(low, high) == value
    inner = tuple(slice(a - b, c - b) for a, b, c in zip(start, low, stop, strict=True))
    if not same.any():
        return same[inner]
    around = same.astype(np.uint8)
    for axis in range(3):
        around = ndimage.correlate1d(around, (1, 1, 1), axis, mode="constant", cval=3**axis)
    return ndimage.maximum_filter((same & (around >= TOGETHER)).view(np.uint8), 3)[inner].astype(bool)


def _corners(volume: Volume) -> list[float]:
    """The values of constant corners, the most frequent first."""
    shape = volume.grid().shape
    found: list[float] = []
    for corner in np.ndindex(2, 2, 2):
        start = triple(max(0, n - CORNER) if far else 0 for n, far in zip(shape, corner, strict=True))
        stop = triple(n if far else min(CORNER, n) for n, far in zip(shape, corner, strict=True))
        values = volume.read(start, stop)
        if (values == values.flat[0]).all():
            found.append(float(values.flat[0]))
    return sorted(set(found), key=lambda value: (-found.count(value), value))


def _samples(volume: Volume, level: int) -> np.ndarray:
    """(z, y, x) stored values of a level, some way apart."""
    shape = volume.grid(level).shape
    steps = triple(max(1, n // SIDE) for n in shape)
    plane = math.prod(shape[1:]) * volume.dtype.itemsize
    thick = max(SLAB_BYTES // (plane * steps[0]), 1) * steps[0]
    return np.concatenate(
        [
            volume.read((z, 0, 0), (min(z + thick, shape[0]), *shape[1:]), level)[:: steps[0], :: steps[1], :: steps[2]]
            for z in range(0, shape[0], thick)
        ]
    )


def _is_padding(seen: np.ndarray, value: float) -> bool:
    same = seen == value
    # Beyond the image all is padding, so that a plane of it at a side is as thick as any other.
    solid = ndimage.binary_opening(np.pad(same, 2, constant_values=True), np.ones((3, 3, 3)))[2:-2, 2:-2, 2:-2]
    pieces, _ = ndimage.label(solid)
    ends = [np.take(pieces, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    outer = np.isin(pieces, np.setdiff1d(np.unique(np.concatenate(ends)), [0]))
    if not LEAST <= outer.mean() < 1 - LEAST:
        return False
    known = np.isfinite(seen) if seen.dtype.kind == "f" else True
    data = ~ndimage.binary_dilation(outer, iterations=2) & known
    next_to = data & ndimage.binary_dilation(outer, iterations=4)
    if not next_to.any() or (seen[data] == value).mean() >= RARE:
        return False
    low, high = np.percentile(seen[data], [LOWEST, BRIGHTEST]).astype(float)
    step = abs(float(np.median(seen[next_to])) - value)
    return step > GAP * max(high - low, 0.0) and step > 0 and _flat(outer)


def _flat(outer: np.ndarray) -> bool:
    """Whether the inner edge of a region (z, y, x) lies in few flat faces; edges at the image's border are not seen."""
    smooth = ndimage.gaussian_filter(outer.astype(np.float32), 1.5, mode="nearest")
    slopes = np.stack(np.gradient(smooth))
    size = np.linalg.norm(slopes, axis=0)
    edge = (size > 0.1) & (np.abs(smooth - 0.5) < 0.35)
    normals = (slopes[:, edge] / size[edge]).T
    total = len(normals)
    for _ in range(FACES):
        if not len(normals):
            break
        tried = normals[:: max(1, len(normals) // 100)]
        best = max(tried, key=lambda each: int((normals @ each > NEAR).sum()))
        normals = normals[normals @ best <= NEAR]
    return total > 0 and len(normals) <= (1 - FLAT) * total
