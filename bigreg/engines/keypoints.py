"""Points with texture of two images, and where one image shows what the other does around its points.

A point has texture where the image changes along every direction: its response is 1 / trace(S^-1) of the structure
tensor S (Foerstner and Guelch 1987), and one point a cell is kept. It is looked for in the other image at every whole
displacement up to some voxels: the cost is the squared difference of MIND-SSC features (see similarity/features.py)
over a few samples around both. What is found is looked for back, and must come out where it began; and no other place
may be nearly as good.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..geometry import Shape
from .keypoints_cpu import search

BACK = 1
"""Voxels along each axis from its point at which one that is looked for back may come out."""
SAMPLES, STEP = 1, 2
"""Samples on each side of a point that are compared along each axis, and voxels between them."""
SMOOTH = 1.0
"""Standard deviation, voxels, of the window of the structure tensor."""
LEAST_TEXTURE = 1e-5
"""Least response, of intensities of about 0 .. 1."""
APART = 2
"""Voxels along each axis from the best displacement within which others count as the same one."""
SECOND = 0.9
"""Most that the best cost may be of the least one elsewhere: what repeats itself is not known again."""


def margin(reach: int) -> int:
    """Voxels around points that decide what is found of them: there and back, the samples, features, the tensor."""
    return 2 * reach + SAMPLES * STEP + 3 + int(4 * SMOOTH) + 2


@dataclass(frozen=True, eq=False)
class Matches:
    """Points that were found again.

    points   (N, 3) index positions, whole voxels
    found    (N, 3) index positions in the other image, to parts of a voxel
    ratio    (N,) the cost there over the least one elsewhere
    """

    points: np.ndarray
    found: np.ndarray
    ratio: np.ndarray


def texture(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The response of each voxel (z, y, x), squared intensity a voxel; 0 where the mask does not hold all around."""
    slopes = np.gradient(image.astype(np.float64))
    a, d, e, b, f, c = (ndimage.gaussian_filter(slopes[i] * slopes[j], SMOOTH) for i in range(3) for j in range(i, 3))
    minors = (b * c - f * f) + (a * c - e * e) + (a * b - d * d)
    determinant = a * (b * c - f * f) - d * (d * c - e * f) + e * (d * f - b * e)
    response = np.maximum(determinant, 0) / np.maximum(minors, 1e-30)
    return np.where(ndimage.binary_erosion(mask > 0, np.ones((5, 5, 5))), response, 0)


def keypoints(response: np.ndarray, first: Shape, cells: Shape, cell: int) -> np.ndarray:
    """(N, 3) int: of each of `cells` cells of `cell` voxels, from voxel `first` on, the one of the largest response.

    That must be above LEAST_TEXTURE and the largest of its neighbours, too: otherwise the point is another cell's.
    """
    peaks = np.where(response >= ndimage.maximum_filter(response, 3), response, 0)
    peaks = np.where(peaks > LEAST_TEXTURE, peaks, 0)
    last = [a + n * cell for a, n in zip(first, cells, strict=True)]
    inner = peaks[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    z, y, x = cells
    by_cell = inner.reshape(z, cell, y, cell, x, cell).transpose(0, 2, 4, 1, 3, 5).reshape(z * y * x, cell**3)
    kept = by_cell.max(1) > 0
    within = np.stack(np.unravel_index(by_cell.argmax(1), (cell,) * 3), 1)
    corner = np.stack(np.unravel_index(np.arange(z * y * x), cells), 1) * cell
    return (corner + within + first)[kept]


def matches(
    features: tuple[np.ndarray, np.ndarray], masks: tuple[np.ndarray, np.ndarray], points: np.ndarray, reach: int
) -> Matches:
    """The `points` (N, 3) int of the first image that were found in the second one, and found back.

    features   (C, z, y, x) float32 of the one and of the other image, on the same grid
    masks      (z, y, x) where they are known
    reach      voxels along each axis up to which a point is looked for
    """
    edge = SAMPLES * STEP
    line = np.arange(-SAMPLES, SAMPLES + 1) * STEP
    offsets = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    one, other = (np.pad(f, ((0, 0), *[(edge, edge)] * 3), mode="edge") for f in features)
    known = [np.ascontiguousarray(m > 0) for m in masks]
    points = np.ascontiguousarray(points, dtype=np.int64)
    there, exact, ratio = _searched(one, other, known[1], points, offsets, reach)
    use = (np.abs(there) < reach).all(1) & (ratio < SECOND)
    points, there, exact, ratio = points[use], there[use], exact[use], ratio[use]
    back, _, _ = _searched(other, one, known[0], points + there, offsets, reach)
    use = (np.abs(there + back) <= BACK).all(1)
    return Matches(points[use], (points + exact)[use], ratio[use])


def _searched(
    one: np.ndarray, other: np.ndarray, known: np.ndarray, points: np.ndarray, offsets: np.ndarray, reach: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 3) the best displacement in whole voxels and to parts of one, and (N,) its cost over the least elsewhere."""
    whole, exact = np.zeros((len(points), 3), np.int64), np.zeros((len(points), 3))
    ratio = np.full(len(points), np.inf)
    if len(points):
        search(one, other, known, points, offsets, reach, APART, whole, exact, ratio)
    return whole, exact, ratio
