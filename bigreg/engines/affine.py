"""The global affine: many starts, the best by the metric, refined symmetrically in mid-space.

With A = H H, fixed is seen at H^-1 x and moving at H x. A step D moves them apart by exp(-D/2) and exp(D/2): the new
affine is H exp(D) H, and D is the Levenberg-Marquardt step of the similarity's forces on the generators of the group.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid
from ..similarity import Similarity
from ..transforms.affine import exp_affine, principal_sqrt
from ..transforms.positions import Positions
from .gauss_newton import gradient
from .starts import Placed, Start, find_starts

Kind = Literal["translation", "rigid", "similarity", "affine"]
STAGES = {
    "translation": ("translation",),
    "rigid": ("rigid",),
    "similarity": ("rigid", "similarity"),
    "affine": ("rigid", "similarity", "affine"),
}
STRETCH = 2.0  # an affine that scales an axis by more is not believed
REFINED_STARTS = 4
AMBIGUOUS = 0.02  # similarity within which two different places are equally good


@dataclass(frozen=True, eq=False)
class AffineResult:
    """`matrix`: fixed world to moving world (4 x 4, um zyx).

    similarity   1 - mean loss on the overlap; overlap: fraction of the smaller image
    candidates   (name, similarity after a first refinement, overlap) of the starts that were followed, best first
    ambiguous    another start, in another place, is nearly as good
    """

    matrix: np.ndarray
    start: str
    similarity: float
    overlap: float
    candidates: list[tuple[str, float, float]]
    ambiguous: bool
    warnings: list[str] = field(default_factory=list)


def register_affine(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    fixed_grid: Grid,
    moving_grid: Grid,
    *,
    kind: Kind,
    similarity: Similarity,
    rotations_deg: float = 10.0,
    min_overlap: float = 0.2,
) -> AffineResult:
    """Find the affine between two coarse images (z, y, x) of intensities about 0..1 on axis-aligned grids.

    Raises InputError where no start gives `min_overlap` of the smaller image and a positive correlation.
    """
    pair = [Placed(fixed.float(), fixed_grid), Placed(moving.float(), moving_grid)]
    # The order of the two images is decided by their content, not by who is called fixed. So exchanging them runs the
    # very same computation and gives the very inverse, whatever the search and its ties do.
    swapped = _digest(pair[0]) > _digest(pair[1])
    if swapped:
        pair.reverse()
    result = _register(*pair, kind, similarity, rotations_deg, min_overlap)
    if not swapped:
        return result
    return AffineResult(
        np.linalg.inv(result.matrix), *[getattr(result, n) for n in list(result.__dataclass_fields__)[1:]]
    )


def _digest(placed: Placed) -> bytes:
    data = placed.image.contiguous().numpy().tobytes() + repr(placed.grid).encode()
    return hashlib.sha256(data).digest()


def _register(
    fixed: Placed, moving: Placed, kind: Kind, similarity: Similarity, rotations_deg: float, min_overlap: float
) -> AffineResult:
    starts = find_starts(fixed, moving, 0.0 if kind == "translation" else rotations_deg, min_overlap)
    starts = [s for s in starts if s.score > 0]
    if kind == "translation":
        starts = [s for s in starts if np.allclose(s.matrix[:3, :3], np.eye(3))]
    if not starts:
        raise InputError(
            f"fixed and moving have nothing in common where at least {min_overlap:.0%} of the smaller one overlaps; "
            "check orientation, spacing and channel, or lower affine.min_overlap"
        )
    finest = max(*fixed.grid.spacing, *moving.grid.spacing)
    ladder = [finest * f for f in (4, 2, 1) if min(_smallest(p) for p in (fixed, moving)) / (finest * f) >= 8] or [
        finest
    ]
    stages = STAGES[kind]
    copies = {spacing: (fixed.isotropic(spacing), moving.isotropic(spacing)) for spacing in ladder}
    followed = []
    for start in _distinct(starts, 4 * ladder[0]):
        refined = _Refinement(*copies[ladder[0]], similarity, min_overlap).run(start.matrix, stages[0])
        followed.append((start, *refined))
    followed.sort(key=lambda f: -f[2])
    start, matrix, best, _ = followed[0]
    ambiguous = any(
        best - other[2] < AMBIGUOUS and _apart(matrix, other[1], fixed.grid) > 4 * ladder[0] for other in followed[1:]
    )
    warnings = []
    if ambiguous:
        warnings.append(
            "two starts in different places are nearly equally good; judge the overlay, or narrow the search"
        )
    overlap = followed[0][3]
    for spacing in ladder:
        refinement = _Refinement(*copies[spacing], similarity, min_overlap)
        for stage in stages if spacing == ladder[0] else stages[-1:]:
            new, score, part = refinement.run(matrix, stage)
            stretch = np.linalg.svd(new[:3, :3], compute_uv=False)
            if stretch.max() > STRETCH or stretch.min() < 1 / STRETCH:
                warnings.append(
                    f"the {stage} step scaled an axis by {stretch.max():.2f} or {stretch.min():.2f} and was dropped"
                )
                continue
            matrix, best, overlap = new, score, part
    candidates = [(f[0].name, float(f[2]), float(f[3])) for f in followed]
    return AffineResult(matrix, start.name, float(best), float(overlap), candidates, ambiguous, warnings)


def _smallest(placed: Placed) -> float:
    return float(min(np.multiply(placed.grid.shape, placed.grid.spacing)))


def _apart(a: np.ndarray, b: np.ndarray, grid: Grid) -> float:
    """Mean distance (um) between where two maps take the corners of a grid."""
    corners = grid.corners()
    return float(np.linalg.norm(corners @ (a - b)[:3, :3].T + (a - b)[:3, 3], axis=1).mean())


def _distinct(starts: list[Start], distance: float) -> list[Start]:
    """The best few starts that do not lie in one place."""
    chosen: list[Start] = []
    for start in starts:
        grid = Grid.from_spacing((2, 2, 2), (distance * 10,) * 3)
        if all(_apart(start.matrix, other.matrix, grid) > distance for other in chosen):
            chosen.append(start)
        if len(chosen) == REFINED_STARTS:
            break
    return chosen


def basis(kind: str) -> np.ndarray:
    """(K, 3, 4) generators of a group: linear part on coordinates scaled to about 1, translation in the last column."""
    generators = []
    for axis in range(3):
        g = np.zeros((3, 4))
        g[axis, 3] = 1.0
        generators.append(g)
    if kind in ("rigid", "similarity"):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            g = np.zeros((3, 4))
            g[i, j], g[j, i] = 1.0, -1.0
            generators.append(g)
        if kind == "similarity":
            generators.append(np.eye(3, 4))
    elif kind == "affine":
        for i in range(3):
            for j in range(3):
                g = np.zeros((3, 4))
                g[i, j] = 1.0
                generators.append(g)
    return np.array(generators)


class _Refinement:
    """Levenberg-Marquardt on one pair of isotropic images."""

    def __init__(self, fixed: Placed, moving: Placed, similarity: Similarity, min_overlap: float) -> None:
        self.fixed, self.moving = fixed, moving
        self.similarity = similarity
        self.spacing = fixed.grid.spacing[0]
        self.least = min_overlap * min(fixed.grid.voxels, moving.grid.voxels)

    def run(self, matrix: np.ndarray, kind: str, iterations: int = 25) -> tuple[np.ndarray, float, float]:
        """(matrix, similarity, overlap) after refinement from `matrix`."""
        generators = basis(kind)
        damping = 1e-3
        here = self._look(matrix, generators)
        for _ in range(iterations):
            if here is None:
                return matrix, -1.0, 0.0
            loss, weight, slope, curvature, centre, radius = here
            moved = False
            for _ in range(6):
                theta = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature) + 1e-9), -slope)
                # No corner of the image moves further than two voxels in one step.
                theta *= min(1.0, 2.0 / max(float(np.abs(theta).max()), 1e-12))
                new = self._stepped(matrix, np.tensordot(theta, generators, 1), centre, radius)
                there = self._look(new, generators)
                if there is not None and there[0] / there[1] < loss / weight:
                    matrix, here, moved = new, there, True
                    damping = max(damping / 4, 1e-6)
                    break
                damping *= 8
            if not moved or float(np.abs(theta).max()) < 0.005:
                break
        smaller = min(self.fixed.grid.voxels, self.moving.grid.voxels)
        return matrix, 1.0 - here[0] / here[1], min(1.0, here[1] / smaller)

    def _stepped(self, matrix: np.ndarray, step: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
        generator = np.zeros((4, 4))
        generator[:3, :3] = step[:, :3] * self.spacing / radius
        generator[:3, 3] = step[:, 3] * self.spacing - generator[:3, :3] @ centre
        half = principal_sqrt(matrix)
        return half @ exp_affine(generator) @ half

    def _look(self, matrix: np.ndarray, generators: np.ndarray) -> tuple | None:
        """Loss, weight, gradient and curvature by the generators' parameters (voxels), and their centre and radius."""
        try:
            half = principal_sqrt(matrix)
        except ValueError:
            return None
        back = np.linalg.inv(half)
        boxes = [self.fixed.grid.bounds(half, faces=True), self.moving.grid.bounds(back, faces=True)]
        low, high = np.maximum(boxes[0][0], boxes[1][0]), np.minimum(boxes[0][1], boxes[1][1])
        shape = np.floor((high - low) / self.spacing).astype(int)
        if (shape < 4).any():
            return None
        grid = Grid.from_spacing(tuple(shape), (self.spacing,) * 3, (low + high) / 2 - self.spacing * (shape - 1) / 2)
        f, mask_f = self.fixed.on(grid, back)
        m, mask_m = self.moving.on(grid, half)
        mask = mask_f * mask_m
        forces = self.similarity(f, m, mask)
        if forces.weight < self.least:
            return None
        slope_f, slope_m = gradient(f), gradient(m)
        force = (slope_f * forces.fixed - slope_m * forces.moving).reshape(3, -1)
        arm = (slope_f * forces.fixed_scale + slope_m * forces.moving_scale).reshape(3, -1)
        centre = (low + high) / 2
        radius = float(np.linalg.norm(high - low) / 2)
        place = Positions.of_grid(grid)
        offset = torch.as_tensor(place.anchor - centre, dtype=torch.float32)[:, None]
        x = (place.offset.reshape(3, -1) + offset) / radius
        x = torch.cat([x, torch.ones_like(x[:1])])
        # v = -(1/2) D x: the moving image goes forth by half a step, the fixed one back. Sums over voxels are made once
        # for the twelve elements of a general D; a group's generators combine them.
        directions = -0.5 * generators.reshape(len(generators), 12)
        slope = (force @ x.T).double().numpy().reshape(12)
        rows = (arm[:, None] * x[None]).reshape(12, -1)
        curvature = (rows @ rows.T).double().numpy()
        slope, curvature = directions @ slope, directions @ curvature @ directions.T
        return forces.loss, forces.weight, slope, curvature, centre, radius
