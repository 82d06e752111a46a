"""Whether fine detail agrees in place: what a start cannot have by chance, nor by what is bright and smooth.

Outlines, a glow and other large shapes may fit under a wrong map, since the search looks for maps under which they do.
Voxel against voxel a wrong map is as good as the same map a few voxels off, and a right one is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import ndimage, special

from ..geometry import Grid, Shape
from ..transforms.affine import about, nearest_axis_turn, principal_sqrt
from .placed import Placed, lattice_within, shared_box
from .structure import tissue_level

VOXELS = 96, 48  # along the longest axis: of two sizes of detail the finer may not agree where a start is a little off
FINE = 1.0  # voxels: the SD of the surroundings that are taken off
AROUND = 4.0  # voxels: the SD of the surroundings whose contrast counts
FLAT = 0.5  # of the mean contrast: where there is less, it is hardly amplified
DARK = 0.4  # of the level of the tissue: differences in darker places count less
SHIFT = 5  # voxels: far beyond what is fine
LEAST_EDGE = 3 * SHIFT  # voxels that both images show along an axis, or nothing is shifted along it
LEAST_SHIFTS = 8  # of two axes
NOISE, CLEAR = 0.35, 0.6  # correlation of neighbours: of noise that was interpolated, and of what is hardly noisy
LEAST, SLOPE = 5.0, 3.0  # see `least` (RESULTS.md), and how sharply
SHARE = 0.4  # of what is possible, where that is little: right starts have .49 and more of it (RESULTS.md)


@dataclass(frozen=True)
class Detail:
    """How much better fine detail agrees in place than shifted, in SD under the shifts.

    lead: under a map; possible: as far as the images can tell
    """

    lead: float
    possible: float

    @property
    def least(self) -> float:
        """The lead at which a start is as likely right as wrong."""
        return min(LEAST, SHARE * self.possible)

    @property
    def trust(self) -> float:
        """0 .. 1: the most that a start may be believed; 1 where the images hold too little detail to tell."""
        return float(special.expit(SLOPE * (self.lead - self.least))) if self.possible >= LEAST else 1.0

    @property
    def warning(self) -> str:
        return (
            f"fine detail does not agree in place: it correlates {self.lead:.1f} SD better than shifted by {SHIFT} "
            f"voxels (right starts: {self.least:.1f} or more); a glow or outlines may have misled the search"
        )


def detail_in_place(fixed: Placed, moving: Placed, matrix: np.ndarray) -> Detail | None:
    """Compare fine detail of two images in place and shifted. matrix: fixed world to moving world (4 x 4, um).

    Of the logarithm of each image what differs from its near surroundings is left, by the contrast there. Both are seen
    half way. Their correlation is compared with those under shifts by a few voxels along and across the axes; it could
    be as that of each image with itself, less for noise. The better of two sizes of detail counts. Exchanging the
    images gives the same. None where the images share too little for shifts along two axes.
    """
    turn = nearest_axis_turn(matrix)
    half = principal_sqrt(about(turn.T, np.zeros(3)) @ matrix)
    moving = moving if np.array_equal(turn, np.eye(3)) else moving.turned(turn)
    native = float(np.prod(np.maximum(fixed.grid.spacing, moving.grid.spacing))) ** (1 / 3)
    extent = min(max(np.multiply(p.grid.shape, p.grid.spacing)) for p in (fixed, moving))
    box = shared_box(fixed.grid, moving.grid, half)
    found = []
    for spacing in sorted({max(native, extent / voxels) for voxels in VOXELS}):
        grid = lattice_within(*box, np.full(3, spacing))
        shifts = [] if grid is None else _shifts(grid.shape)
        if grid is not None and len(shifts) >= LEAST_SHIFTS:
            found.append(_compared(fixed, moving, half, grid, shifts))
    return Detail(max(d.lead for d in found), max(d.possible for d in found)) if found else None


def _shifts(shape: Shape) -> list[np.ndarray]:
    """All by SHIFT voxels forth, back or not along each axis that is long enough, without none at all."""
    steps = [(-SHIFT, 0, SHIFT) if n >= LEAST_EDGE else (0,) for n in shape]
    return [np.array(shift) for shift in product(*steps) if any(shift)]


def _compared(fixed: Placed, moving: Placed, half: np.ndarray, grid: Grid, shifts: list[np.ndarray]) -> Detail:
    (a, clear_a), (b, clear_b) = (_fine(placed, grid.spacing[0]) for placed in (fixed, moving))
    (x, seen_x), (y, seen_y) = a.on(grid, np.linalg.inv(half)), b.on(grid, half)
    seen = ((seen_x > 0.999) & (seen_y > 0.999)).numpy().astype(np.float32)
    details = x.numpy() * seen, y.numpy() * seen
    own = [max(_lead(detail, detail, seen, shifts), 0.0) for detail in details]
    return Detail(_lead(*details, seen, shifts), float(np.sqrt(np.prod(own) * clear_a * clear_b)))


def _fine(placed: Placed, spacing: float) -> tuple[Placed, float]:
    """What differs from its near surroundings, by the contrast around; and the share of it that is no noise, 0 .. 1.

    Noise is told on the image's own voxels, by how alike neighbours in the tissue are: seen from another grid it is
    smooth.
    """
    copy = placed.at(np.full(3, spacing))
    size = spacing / np.asarray(copy.grid.spacing)
    seen = (copy.weights > 0.999).numpy().astype(np.float32)

    def mean(values: np.ndarray, sigma: float) -> np.ndarray:
        smooth: np.ndarray = ndimage.gaussian_filter(values, sigma * size, mode="constant", truncate=3.0)
        return smooth

    near, around = (np.maximum(mean(seen, sigma), 1e-6) for sigma in (FINE, AROUND))
    image = np.clip(copy.image.numpy(), 0.0, None)
    dark = np.float32(DARK * max(tissue_level(image, seen), 1e-6))
    x = np.log(image + dark) * seen
    differs = (x - mean(x, FINE) / near) * seen
    floor = FLAT * float(np.sqrt((differs * differs).sum() / max(seen.sum(), 1.0))) + 1e-12
    fine = differs / (np.sqrt(np.maximum(mean(differs * differs, AROUND), 0.0) / around) + floor)
    tissue = seen * (mean(image * seen, AROUND) / around > dark)
    alike = max(_correlation(fine * tissue, fine * tissue, tissue, step) for step in np.eye(3, dtype=int))
    detail = Placed(torch.as_tensor(fine), copy.grid, None if copy.mask is None else torch.as_tensor(seen))
    return detail, float(np.clip((alike - NOISE) / (CLEAR - NOISE), 0.0, 1.0))


def _lead(a: np.ndarray, b: np.ndarray, seen: np.ndarray, shifts: list[np.ndarray]) -> float:
    off = [_correlation(a, b, seen, shift) for shift in shifts]
    return (_correlation(a, b, seen, np.zeros(3, int)) - float(np.mean(off))) / max(float(np.std(off, ddof=1)), 1e-6)


def _correlation(a: np.ndarray, b: np.ndarray, seen: np.ndarray, shift: np.ndarray) -> float:
    """Of a at x and b at x + shift, both around 0, over what is seen of both."""
    here = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(shift, a.shape, strict=True))
    there = tuple(slice(max(s, 0), n + min(s, 0)) for s, n in zip(shift, a.shape, strict=True))
    a, b, seen_a, seen_b = a[here], b[there], seen[here], seen[there]
    norm = _sum(a, a, seen_b) * _sum(b, b, seen_a)
    return _sum(a, b) / norm**0.5 if norm > 0 else 0.0


def _sum(*factors: np.ndarray) -> float:
    first, *others = factors
    for other in others[:-1]:
        first = first * other
    return float(np.einsum("zyx,zyx->", first, others[-1], dtype=np.float64))
