"""Whether an image is padded: one value, exactly, beyond flat faces of what was imaged.

Rotating, deskewing or stitching fills what lies around the data with one value, mostly 0, while the background of the
data lies above it. Its edge is then the strongest in the image, and moves with the frame, not with the tissue. A
background that was set to 0 around tissue looks alike but for its shape: its edge is the tissue's own, and says where
the tissue is. So padding is what

- holds exactly one value, in pieces that touch the image's border, over at least `LEAST` of the image,
- is a gap away from the intensities of the data, and
- ends in few flat faces.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from ...geometry import Shape, triple
from ...volumes import Volume

LEAST = 0.005  # of the image; less does no harm
GAP = 0.02  # of the range from the padding to the brightest data, up to the lowest percentile of the data
LOWEST, BRIGHTEST = 1.0, 99.9  # percentiles of the data
SIDE = 96  # samples along the longest axis that the shape is judged by
FACES = 8  # so many flat faces at most
NEAR = math.cos(math.radians(10))  # of a face's own direction
FLAT = 0.6  # of the edge that must lie in such faces: a ball has .06, a box all but its own edges
MOST_BYTES = 2**31  # of an image without a pyramid that are read to find out


def padding_of(volume: Volume) -> float | None:
    """The value that an image (its channel and time point) is padded with; None where it is not, or is too large.

    Reads the level of its pyramid that has about SIDE voxels along the longest axis, or all of an image without one up
    to MOST_BYTES.
    """
    seen = _samples(volume)
    if seen is None:
        return None
    border = np.concatenate([np.take(seen, end, axis).ravel() for axis in range(3) for end in (0, -1)])
    values, counts = np.unique(border[np.isfinite(border)] if border.dtype.kind == "f" else border, return_counts=True)
    if not len(values):
        return None
    value = values[counts.argmax()]
    return float(value) if _padded(seen, seen == value, float(value)) else None


def _samples(volume: Volume) -> np.ndarray | None:
    """(z, y, x) stored values, some way apart; None where too much would have to be read for them."""
    level = max(
        (n for n, each in enumerate(volume.levels) if max(each.grid.shape) >= SIDE), default=0, key=lambda n: n
    )
    shape = volume.grid(level).shape
    if math.prod(shape) * volume.dtype.itemsize > MOST_BYTES:
        return None
    steps = triple(max(1, n // SIDE) for n in shape)
    return np.concatenate([_plane(volume, level, z, shape, steps) for z in range(0, shape[0], steps[0])])


def _plane(volume: Volume, level: int, z: int, shape: Shape, steps: Shape) -> np.ndarray:
    return volume.read((z, 0, 0), (z + 1, *shape[1:]), level)[:, :: steps[1], :: steps[2]]


def _padded(seen: np.ndarray, same: np.ndarray, value: float) -> bool:
    pieces, _ = ndimage.label(same)
    ends = [np.take(pieces, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    outer = np.isin(pieces, np.setdiff1d(np.unique(np.concatenate(ends)), [0]))
    if not LEAST <= outer.mean() < 1 - LEAST:
        return False
    data = seen[ndimage.binary_erosion(~same, iterations=2, border_value=1)]
    data = data[np.isfinite(data)] if data.dtype.kind == "f" else data
    if not data.size:
        return False
    low, high = np.percentile(data, [LOWEST, BRIGHTEST])
    return low - value > GAP * (high - value) > 0 and _flat(outer)


def _flat(outer: np.ndarray) -> bool:
    """Whether the inner edge of a region (z, y, x) lies in few flat faces; edges at the image's border are not seen."""
    smooth = ndimage.gaussian_filter(outer.astype(np.float32), 1.5, mode="nearest")
    slopes = np.stack(np.gradient(smooth))
    size = np.linalg.norm(slopes, axis=0)
    edge = (size > 0.1) & (np.abs(smooth - 0.5) < 0.35)
    if not edge.any():
        return True  # whole planes at a side, which `edge` of a cut through the border cannot miss
    normals = (slopes[:, edge] / size[edge]).T
    total = left = len(normals)
    for _ in range(FACES):
        counts = [int((normals @ each > NEAR).sum()) for each in normals[:: max(1, len(normals) // 100)]]
        best = normals[:: max(1, len(normals) // 100)][int(np.argmax(counts))]
        normals = normals[normals @ best <= NEAR]
        left = len(normals)
        if left <= (1 - FLAT) * total:
            return True
    return False
