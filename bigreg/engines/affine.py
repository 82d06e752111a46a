"""The global affine: many starts, the best by what the images show, refined symmetrically in mid-space.

With A = H H, fixed is seen at H^-1 x and moving at H x. A step D moves them apart by exp(-D/2) and exp(D/2); the
new affine is H exp(D) H; D is the Levenberg-Marquardt step of the similarity's forces on the generators of the group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from ..errors import InputError
from ..geometry import Grid
from ..similarity import Similarity
from ..transforms.affine import exp_affine, principal_sqrt
from .affine_cpu import pull
from .starts import METHODS, Judge, Placed, Start, find_starts

Kind = Literal["translation", "rigid", "similarity", "affine"]
STAGES = {
    "translation": ("translation",),
    "rigid": ("rigid",),
    "similarity": ("rigid", "similarity"),
    "affine": ("rigid", "similarity", "affine"),
}
STRETCH = 2.0  # an affine that scales an axis by more is not believed
FOLLOWED = 5  # starts that are refined before one is chosen
AMBIGUOUS = 0.03  # share of the best score within which another place is as good
SIGNLESS = ("lncc_squared", "mi", "nmi")  # similarities that do not care which image is bright where
LEAST_EDGE = 8  # voxels that every edge keeps on the coarser rungs


@dataclass(frozen=True, eq=False)
class Candidate:
    """A start that was followed. `matrix`: fixed world to moving world (4 x 4, um zyx); mirrored: a reflection."""

    name: str
    matrix: np.ndarray
    correlation: float
    overlap: float
    similarity: float
    mirrored: bool


@dataclass(frozen=True, eq=False)
class AffineResult:
    """`matrix`: fixed world to moving world (4 x 4, um zyx).

    start        name of the start that was chosen
    similarity   1 - mean loss on the overlap; overlap: share of the smaller image
    candidates   the starts that were followed and lie apart, best first; the first is the chosen one
    confidence   0..1, how probable it is that the chosen start is right
    ambiguous    another start, in another place, is nearly as good
    mirrored     the chosen map is a reflection
    warnings     what a person should look at
    """

    matrix: np.ndarray
    start: str
    similarity: float
    overlap: float
    candidates: list[Candidate]
    confidence: float
    ambiguous: bool
    mirrored: bool = False
    warnings: list[str] = field(default_factory=list)


def register_affine(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    fixed_grid: Grid,
    moving_grid: Grid,
    *,
    fixed_mask: torch.Tensor | None = None,
    moving_mask: torch.Tensor | None = None,
    kind: Kind = "affine",
    similarity: Similarity,
    starts: Collection[str] = METHODS,
    rotations_deg: float = 10.0,
    min_overlap: float = 0.2,
    start: np.ndarray | None = None,
    allow_mirror: bool = False,
) -> AffineResult:
    """Find the affine between two coarse images (z, y, x) of intensities about 0..1 on axis-aligned grids.

    fixed_mask, moving_mask   (z, y, x), above 0 where an image has data; None = everywhere
    starts                    which of "identity", "centres", "moments", "shifts" are tried
    rotations_deg             the shifts are searched under rotations up to this
    min_overlap               share of the smaller image that must stay inside the other
    start                     fixed world to moving world (4 x 4, um) to begin with, in place of any search

    It works on the CPU: the images are small, and on one machine one thread gives the same bits each time. Raises
    InputError for a blank image, and where no start has `min_overlap` and a positive correlation.
    """
    if kind not in STAGES:
        raise ValueError(f"kind {kind!r} is unknown; use one of {', '.join(STAGES)}")
    if not starts or not set(starts) <= set(METHODS):
        raise ValueError(f"starts {tuple(starts)} must be some of {', '.join(METHODS)}")
    pair = [_placed("fixed", fixed, fixed_grid, fixed_mask), _placed("moving", moving, moving_grid, moving_mask)]
    # The order of the two images is decided by their content, not by who is called fixed. So exchanging them runs the
    # very same computation and gives the very inverse, whatever the search and its ties do. (The refinement is
    # symmetric by itself, but the choice among starts sees one image on the other's grid.)
    swapped = _digest(pair[0]) > _digest(pair[1])
    if swapped:
        pair.reverse()
    if start is not None and swapped:
        start = np.linalg.inv(start)
    with torch.no_grad():
        result = _register(*pair, kind, similarity, starts, rotations_deg, min_overlap, start)
    if not swapped:
        return result
    candidates = [replace(c, matrix=np.linalg.inv(c.matrix)) for c in result.candidates]
    return replace(result, matrix=np.linalg.inv(result.matrix), candidates=candidates)


def _placed(name: str, image: torch.Tensor, grid: Grid, mask: torch.Tensor | None) -> Placed:
    image = image.detach().to("cpu", torch.float32)
    for what, values in (("image", image), ("mask", mask)):
        if values is not None and tuple(values.shape) != grid.shape:
            raise ValueError(f"{name} {what} has shape {tuple(values.shape)}, its grid {grid.shape}")
    if not grid.is_axis_aligned:
        raise ValueError(f"{name} grid is turned ({grid.matrix}); resample the image to an axis-aligned grid first")
    if mask is not None:
        mask = (mask.detach().to("cpu") > 0).float()
        if bool((mask > 0).all()):
            mask = None
    seen = image if mask is None else image[mask > 0]
    if not seen.numel():
        raise InputError(f"{name} has no data: its mask is empty; check the mask")
    if not bool(torch.isfinite(seen).all()):
        raise InputError(f"{name} has voxels that are NaN or infinite; replace them, or leave them out with a mask")
    if not float(seen.max()) > float(seen.min()):
        raise InputError(f"{name} is blank: every voxel is {float(seen.min()):g}; check the file, dataset and channel")
    if mask is not None:
        # Outside the mask stands the mean, so that smoothing makes no edges there.
        image = torch.where(mask > 0, image, seen.mean())
    return Placed(image.contiguous(), grid, mask)


def _digest(placed: Placed) -> bytes:
    data = hashlib.sha256(placed.image.numpy().tobytes() + repr(placed.grid).encode())
    if placed.mask is not None:
        data.update(placed.mask.numpy().tobytes())
    return data.digest()


def _register(
    fixed: Placed,
    moving: Placed,
    kind: Kind,
    similarity: Similarity,
    methods: Collection[str],
    rotations_deg: float,
    min_overlap: float,
    given: np.ndarray | None,
) -> AffineResult:
    judge = Judge(fixed, moving, signless=similarity.name in SIGNLESS)
    if given is not None:
        found = [judge("given", given)]
    else:
        found = find_starts(judge, 0.0 if kind == "translation" else rotations_deg, min_overlap, methods)
    if not found:
        raise InputError(
            f"fixed and moving have nothing in common where at least {min_overlap:.0%} of the smaller one overlaps; "
            "check orientation, spacing and channel, or lower affine.min_overlap"
        )
    rungs = _rungs(fixed, moving)
    coarsest = _Refinement(fixed, moving, rungs[0], similarity, min_overlap)
    followed = []
    for start in _distinct(found, fixed.grid, 3 * judge.spacing):
        warnings: list[str] = []
        refined = coarsest.staged(start.matrix, STAGES[kind], warnings)
        if refined is not None:
            followed.append((judge(start.name, refined[0]), refined, warnings))
    if not followed:
        raise InputError(
            f"every start lost the overlap of {min_overlap:.0%} when it was refined; "
            "check orientation, spacing and channel, or lower affine.min_overlap"
        )
    followed.sort(key=lambda f: -f[0].score)
    equals = [f for f in followed if f[0].score >= (1.0 - AMBIGUOUS) * followed[0][0].score]
    # Of places that the images do not tell apart, the one that turns least is the likeliest.
    chosen = min(equals, key=lambda f: (round(_turn_deg(f[0].matrix) / 5.0), -f[0].score))
    ambiguous = any(_apart(chosen[0].matrix, f[0].matrix, fixed.grid) > 4 * judge.spacing for f in equals)
    start, (matrix, score, overlap), warnings = chosen
    if ambiguous:
        warnings.append("starts in different places are nearly equally good; judge the overlay, or narrow the search")
    for spacing in rungs[1:]:
        refinement = _Refinement(fixed, moving, spacing, similarity, min_overlap)
        for stage in reversed(STAGES[kind]):
            refined = refinement.staged(matrix, (stage,), warnings)
            if refined is not None:
                matrix, score, overlap = refined
                break
    ordered = [chosen, *(f for f in followed if f is not chosen)]
    candidates = [
        Candidate(s.name, matrix if s is start else m, float(s.correlation), float(s.overlap), float(value), False)
        for s, (m, value, _), _ in ordered
    ]
    confidence = 0.3 if ambiguous else 0.9
    return AffineResult(
        matrix, start.name, float(score), float(overlap), candidates, confidence, ambiguous, False, warnings
    )


def _rungs(fixed: Placed, moving: Placed) -> list[np.ndarray]:
    """Spacings (um) coarse to fine; the last is each axis's coarser one of the two images."""
    native = np.maximum(fixed.grid.spacing, moving.grid.spacing)
    extent = np.minimum(*(np.multiply(p.grid.shape, p.grid.spacing) for p in (fixed, moving)))
    even = float(np.prod(native)) ** (1 / 3)
    rungs: list[np.ndarray] = []
    for factor in (4, 2, 1):
        # A thin image keeps its planes.
        spacing = np.maximum(native, np.minimum(factor * even if factor > 1 else 0.0, extent / LEAST_EDGE))
        if not rungs or (spacing < rungs[-1] * 0.99).any():
            rungs.append(spacing)
    return rungs


def _apart(a: np.ndarray, b: np.ndarray, grid: Grid) -> float:
    """Mean distance (um) between where two maps take the corners of a grid."""
    corners = grid.corners()
    return float(np.linalg.norm(corners @ (a - b)[:3, :3].T + (a - b)[:3, 3], axis=1).mean())


def _turn_deg(matrix: np.ndarray) -> float:
    """The angle of the rotation that is nearest to an affine's linear part."""
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    return float(np.rad2deg(Rotation.from_matrix(u @ vt).magnitude()))


def _distinct(starts: list[Start], grid: Grid, distance: float) -> list[Start]:
    """The best few starts that do not lie in one place."""
    chosen: list[Start] = []
    for start in starts:
        if all(_apart(start.matrix, other.matrix, grid) > distance for other in chosen):
            chosen.append(start)
        if len(chosen) == FOLLOWED:
            break
    return chosen


def basis(kind: Kind) -> np.ndarray:
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


@dataclass(frozen=True, eq=False)
class _Look:
    """A map's loss, with gradient and curvature by a general generator's twelve elements (voxels of motion)."""

    loss: float
    weight: float
    slope: np.ndarray
    curvature: np.ndarray
    centre: np.ndarray
    radius: float

    @property
    def mean(self) -> float:
        return self.loss / self.weight


def _upper(n: int) -> np.ndarray:
    """(n, n) where an element of a symmetric matrix stands in a list of its upper triangle, row by row."""
    place = np.zeros((n, n), dtype=int)
    place[np.triu_indices(n)] = np.arange(n * (n + 1) // 2)
    return np.maximum(place, place.T)


_UPPER3, _UPPER4 = _upper(3), _upper(4)


class _Refinement:
    """Levenberg-Marquardt on one pair of images at one spacing (um, z y x)."""

    TOLERANCE = 0.01  # voxels
    SHARE = 3e-4  # a step that gains less than this share of the gain so far is not worth its cost
    TRUST = 2.0  # voxels that a step moves the image's ends at most

    def __init__(
        self, fixed: Placed, moving: Placed, spacing: np.ndarray, similarity: Similarity, min_overlap: float
    ) -> None:
        self.fixed, self.moving = fixed.at(spacing), moving.at(spacing)
        self.similarity = similarity
        self.spacing = spacing
        self.unit = float(np.prod(spacing)) ** (1 / 3)
        self.smaller = min(fixed.volume, moving.volume) / float(np.prod(spacing))
        self.least = min_overlap * self.smaller

    def staged(
        self, matrix: np.ndarray, stages: tuple[Kind, ...], warnings: list[str]
    ) -> tuple[np.ndarray, float, float] | None:
        """(matrix, similarity, overlap) after one group after another; None where the overlap was too small.

        A stage that stretches an axis beyond belief is dropped, and `warnings` says so.
        """
        result = None
        for stage in stages:
            refined = self._run(matrix, stage)
            if refined is None:
                return result
            stretch = np.linalg.svd(refined[0][:3, :3], compute_uv=False)
            if stretch.max() > STRETCH or stretch.min() < 1 / STRETCH:
                warnings.append(
                    f"the {stage} step at {self.unit:.3g} um scaled axes by {stretch.min():.2f} to {stretch.max():.2f} "
                    "and was dropped; check the spacings"
                )
                continue
            result, matrix = refined, refined[0]
        return result

    def _run(self, matrix: np.ndarray, kind: Kind, iterations: int = 20) -> tuple[np.ndarray, float, float] | None:
        generators = basis(kind)
        directions = generators.reshape(len(generators), 12)
        damping = 1e-3
        here = self._look(matrix)
        if here is None:
            return None
        before = here.mean
        for _ in range(iterations):
            slope, curvature = directions @ here.slope, directions @ here.curvature @ directions.T
            scale = np.diag(curvature) + 1e-6 * max(float(np.diag(curvature).max()), 1e-30)
            moved = 0.0
            while not moved:
                theta = np.linalg.solve(curvature + damping * np.diag(scale), -slope)
                theta *= min(1.0, self.TRUST / max(float(np.abs(theta).max()), 1e-12))
                promised = -(slope @ theta + 0.5 * theta @ curvature @ theta) / here.weight
                if float(np.abs(theta).max()) < self.TOLERANCE or promised <= self.SHARE * (before - here.mean):
                    break
                step = np.tensordot(theta, generators, 1)
                new = self._stepped(matrix, step, here)
                there = self._look(new)
                if there is not None and there.mean < here.mean:
                    moved = here.mean - there.mean
                    matrix, here = new, there
                    damping = max(damping / 8, 1e-3)
                else:
                    damping = max(damping * 8, 1.0)
            if moved <= self.SHARE * (before - here.mean):
                break
        return matrix, 1.0 - here.mean, min(1.0, here.weight / self.smaller)

    def _stepped(self, matrix: np.ndarray, step: np.ndarray, here: _Look) -> np.ndarray:
        generator = np.zeros((4, 4))
        generator[:3, :3] = step[:, :3] * self.unit / here.radius
        generator[:3, 3] = step[:, 3] * self.unit - generator[:3, :3] @ here.centre
        half = principal_sqrt(matrix)
        return half @ exp_affine(generator) @ half

    def _look(self, matrix: np.ndarray) -> _Look | None:
        """The images in mid-space through `matrix`; None where too little of them overlaps."""
        try:
            half = principal_sqrt(matrix)
        except ValueError:
            return None  # a half turn away: no mid-space
        back = np.linalg.inv(half)
        boxes = [self.fixed.grid.bounds(half, faces=True), self.moving.grid.bounds(back, faces=True)]
        low, high = np.maximum(boxes[0][0], boxes[1][0]), np.minimum(boxes[0][1], boxes[1][1])
        # The samples are a part of one endless lattice: a map's loss must not depend on where the overlap begins.
        first, last = np.ceil(low / self.spacing), np.floor(high / self.spacing)
        shape = (last - first + 1).astype(int)
        if (shape < 1).any():
            return None
        grid = Grid.from_spacing(tuple(shape), self.spacing, first * self.spacing)
        f, mask_f = self.fixed.on(grid, back)
        m, mask_m = self.moving.on(grid, half)
        forces = self.similarity(f, m, mask_f * mask_m)
        if forces.weight < max(self.least, 1.0):
            return None
        centre = (low + high) / 2
        radius = float(np.linalg.norm(high - low) / 2)
        slope, matrix = np.zeros((3, 4)), np.zeros((6, 10))
        pulls = (forces.fixed, forces.moving, forces.fixed_scale, forces.moving_scale)
        pull(
            f.numpy(), m.numpy(), *(t.expand_as(f).contiguous().numpy() for t in pulls),
            # Per voxel of each axis to per voxel of equal edges.
            (self.unit / self.spacing).astype(np.float32), (grid.origin - centre) / radius, self.spacing / radius,
            slope, matrix,
        )  # fmt: skip
        # v = -(1/2) D x: the moving image goes forth by half a step, the fixed one back. Sums over voxels are made once
        # for the twelve elements of a general D; a group's generators combine them.
        slope = -0.5 * slope.reshape(12)
        curvature = 0.25 * matrix[_UPPER3][:, :, _UPPER4].transpose(0, 2, 1, 3).reshape(12, 12)
        return _Look(forces.loss, forces.weight, slope, curvature, centre, radius)
