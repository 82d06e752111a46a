"""Where a global registration may start: all shifts under many rotations, centres of mass, principal axes, identity.

All on small isotropic copies of both images, and all judged by one figure there, so that the best few can be handed on.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..geometry import Grid
from ..similarity import gradient_directions
from ..transforms.affine import about, translation
from ..transforms.positions import Positions
from .affine_cpu import view
from .shifts import ShiftSearch

METHODS = ("identity", "centres", "moments", "shifts")
SMALL = 40  # voxels along the longest axis of the copies that are searched
ROTATION_STEP = 15.0  # degrees at most between the rotations that are tried first
MAX_TURN = 45.0  # principal axes that differ by more are another pairing of the axes


@dataclass(frozen=True)
class Placed:
    """An image (z, y, x) of about 0..1 on an axis-aligned grid, and where it has data (1 or 0; None = everywhere)."""

    image: torch.Tensor
    grid: Grid
    mask: torch.Tensor | None = None

    @property
    def weights(self) -> torch.Tensor:
        return torch.ones_like(self.image) if self.mask is None else self.mask

    @property
    def volume(self) -> float:
        """um^3 that have data."""
        return float(self.weights.sum(dtype=torch.float64)) * float(np.prod(self.grid.spacing))

    def on(self, grid: Grid, matrix: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The image seen from another grid through `matrix` (that grid's world to this one's); where it has data."""
        values, mask = sampled(self.image[None], self.mask, self.grid, grid, matrix)
        return values[0], mask

    def at(self, spacing: np.ndarray) -> Placed:
        """A copy with voxels of `spacing` um, smoothed against aliasing; itself where its voxels are about as large."""
        ratio = np.asarray(spacing) / self.grid.spacing
        if (ratio < 1.5).all():
            return self
        sigma = 0.5 * np.sqrt(np.maximum(ratio**2 - 1.0, 0.0))
        smooth = torch.as_tensor(ndimage.gaussian_filter(self.image.numpy(), sigma))
        step = np.where(ratio < 1.0, self.grid.spacing, spacing)
        shape = np.maximum(np.round(np.multiply(self.grid.shape, self.grid.spacing) / step), 1).astype(int)
        grid = Grid.from_spacing(shape, step, np.mean(self.grid.bounds(), 0) - step * (shape - 1) / 2)
        return _resampled(smooth, self.mask, self.grid, grid)

    def isotropic(self, spacing: float) -> Placed:
        """A copy with cubic voxels of `spacing` um, whatever its own."""
        coarse = self.at(np.full(3, spacing))
        low, high = self.grid.bounds(faces=True)
        shape = np.maximum(np.round((high - low) / spacing), 1).astype(int)
        grid = Grid.from_spacing(shape, (spacing,) * 3, (low + high) / 2 - spacing * (shape - 1) / 2)
        return _resampled(coarse.image, coarse.mask, coarse.grid, grid)


def _resampled(image: torch.Tensor, mask: torch.Tensor | None, grid: Grid, target: Grid) -> Placed:
    values, seen = sampled(image[None], mask, grid, target, np.eye(4))
    return Placed(values[0], target, None if mask is None else seen)


def sampled(
    images: torch.Tensor, mask: torch.Tensor | None, own: Grid, grid: Grid, matrix: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (C, ...) that lie on the grid `own`, seen from `grid` through `matrix`: the same and a mask (z, y, x)."""
    index = own.inverse @ matrix @ grid.affine
    out, seen = torch.empty(len(images), *grid.shape), torch.empty(grid.shape)
    nothing = np.zeros((0, 1, 1, 1), np.float32)
    view(
        images.contiguous().numpy(), nothing if mask is None else mask[None].contiguous().numpy(),
        index[:3, 3], np.ascontiguousarray(index[:3, :3]), out.numpy(), seen.numpy(),
    )  # fmt: skip
    return out, seen


class Features:
    """What two images are compared by.

    Band-passed structure, and edges. Or, where bright may go with dark (`signless`), the directions of the gradient as
    tensors n n^T - |n|^2 / 3: squared normalised gradient fields without the part that has no direction.
    """

    def __init__(self, placed: Placed, signless: bool) -> None:
        self.signless = signless
        self.grid, self.mask, self.volume = placed.grid, placed.mask, placed.volume
        self.weights = placed.weights
        # The root evens out bright and dim tissue.
        x = np.sqrt(np.clip(placed.image.numpy(), 0.0, 2.0))
        if signless:
            smooth = torch.as_tensor(ndimage.gaussian_filter(x, 1.0))
            # What is flatter than the median of a tissue is noise.
            steep = float(torch.stack(torch.gradient(smooth)).square().sum(0).sqrt().mean())
            tensor = gradient_directions(smooth, self.weights, noise=max(steep, 1e-6))
            tensor[:3] -= tensor[:3].mean(0)
            self.channels = list(tensor)
            return
        band = ndimage.gaussian_filter(x, 1.0) - ndimage.gaussian_filter(x, 6.0)
        edges = ndimage.gaussian_gradient_magnitude(x, 1.0)
        self.channels = [torch.as_tensor(c) for c in (band, edges)]

    def on(self, grid: Grid, matrix: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(values (C, z, y, x), mask) seen from another grid through `matrix`."""
        return sampled(torch.stack(self.channels), self.mask, self.grid, grid, matrix)


def evidence(correlation: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """How much a correlation over a share of the image says: Fisher's z times the root of the number of samples.

    Over a small overlap a high correlation arises by chance, so the share counts.
    """
    return np.arctanh(np.clip(correlation, -0.999, 0.999)) * np.sqrt(overlap)


@dataclass(frozen=True, eq=False)
class Start:
    """A candidate map fixed world -> moving world (4 x 4, um), judged on the overlap of the small copies."""

    name: str
    matrix: np.ndarray
    correlation: float
    overlap: float

    @property
    def score(self) -> float:
        return float(evidence(self.correlation, self.overlap))


class Judge:
    """Small copies of both images, and how well a map lays one on the other."""

    def __init__(self, fixed: Placed, moving: Placed, signless: bool = False) -> None:
        extent = max(max(np.multiply(p.grid.shape, p.grid.spacing)) for p in (fixed, moving))
        self.spacing = extent / SMALL
        self.fixed, self.moving = (p.isotropic(self.spacing) for p in (fixed, moving))
        self.features = Features(self.fixed, signless), Features(self.moving, signless)
        self.voxels = min(f.volume for f in self.features) / self.spacing**3

    def __call__(self, name: str, matrix: np.ndarray) -> Start:
        """The map with its mean correlation and its overlap as a share of the smaller image."""
        f, m = self.features
        values, mask = m.on(f.grid, matrix)
        keep = (mask * f.weights) > 0
        count = int(keep.sum())
        if count < 8:
            return Start(name, matrix, -1.0, 0.0)
        if f.signless:
            a, b = torch.stack(f.channels) * keep, values * keep
            norm = float((a * a).sum(dtype=torch.float64) * (b * b).sum(dtype=torch.float64)) ** 0.5
            correlation = float((a * b).sum(dtype=torch.float64)) / norm if norm > 0 else -1.0
            return Start(name, matrix, correlation, min(1.0, count / self.voxels))
        total = 0.0
        for a, b in zip(f.channels, values, strict=True):
            a, b = a[keep].double(), b[keep].double()
            a, b = a - a.mean(), b - b.mean()
            norm = float(a.norm() * b.norm())
            total += float(a @ b) / norm if norm > 0 else -1.0
        return Start(name, matrix, total / len(values), min(1.0, count / self.voxels))


def find_starts(
    judge: Judge, rotations_deg: float, min_overlap: float, methods: Collection[str] = METHODS
) -> list[Start]:
    """All candidates of enough overlap and positive correlation, best first."""
    found: list[Start] = []
    if "identity" in methods:
        found.append(judge("as they lie", np.eye(4)))
    (cf, af), (cm, am) = _moments(judge.fixed), _moments(judge.moving)
    if "centres" in methods:
        found.append(judge("centres of mass", translation(cm - cf)))
    search = _TurnedSearch(judge, min_overlap)
    if "moments" in methods and rotations_deg > 0:
        for signs in product((1.0, -1.0), repeat=3):
            turn = am @ np.diag(signs) @ af.T
            # Four of the eight choices of sign are rotations; at most one of them is a small one.
            if np.linalg.det(turn) > 0 and Rotation.from_matrix(turn).magnitude() <= np.deg2rad(MAX_TURN):
                found.append(judge("principal axes", about(turn, cf, cm)))
                found += search("principal axes, all shifts", turn)
    if "shifts" in methods:
        found += _search_rotations(search, rotations_deg)
    found = [s for s in found if s.overlap >= min_overlap and s.correlation > 0]
    return sorted(found, key=lambda s: -s.score)


def _search_rotations(search: _TurnedSearch, rotations_deg: float) -> list[Start]:
    """Every shift under a ball of rotations, then under those half a step around the two best of them."""
    tried: dict[tuple[float, float, float], list[Start]] = {}

    def look(angles: tuple[float, ...]) -> None:
        angles = tuple(round(float(a), 3) for a in angles)
        if angles not in tried:
            turn = Rotation.from_rotvec(np.deg2rad(angles)).as_matrix()
            named = f", rotated by ({angles[0]:g}, {angles[1]:g}, {angles[2]:g}) degrees" if any(angles) else ""
            tried[angles] = search("all shifts" + named, turn)

    steps = int(np.ceil(rotations_deg / ROTATION_STEP))
    step = rotations_deg / steps if steps else 0.0
    for triple in product(range(-steps, steps + 1), repeat=3):
        if np.linalg.norm(triple) <= steps:
            look(tuple(step * i for i in triple))
    if steps:
        best = sorted(tried, key=lambda a: -max((s.score for s in tried[a]), default=-1.0))[:2]
        for centre, axis, sign in product(best, range(3), (-0.5, 0.5)):
            angles = tuple(c + sign * step * (i == axis) for i, c in enumerate(centre))
            if np.linalg.norm(angles) <= rotations_deg + 1e-6:
                look(angles)
    return [start for starts in tried.values() for start in starts]


class _TurnedSearch:
    """All shifts of the moving image under one rotation after another."""

    def __init__(self, judge: Judge, min_overlap: float) -> None:
        self.judge = judge
        fixed = judge.features[0]
        self.shifts = ShiftSearch(fixed.channels, fixed.weights, min_overlap * judge.voxels, vector=fixed.signless)

    def __call__(self, name: str, turn: np.ndarray) -> list[Start]:
        """The two best places that lie apart, judged."""
        fixed, moving = self.judge.features
        spacing = self.judge.spacing
        matrix = about(turn, np.mean(moving.grid.bounds(), axis=0))
        low, high = moving.grid.bounds(np.linalg.inv(matrix))
        grid = Grid.from_spacing(np.ceil((high - low) / spacing - 1e-6).astype(int) + 1, (spacing,) * 3, low)
        values, mask = moving.on(grid, matrix)
        lowest, correlation, voxels = self.shifts(list(values), mask)
        score = evidence(correlation.numpy(), np.minimum(voxels.numpy() / self.judge.voxels, 1.0))
        score[correlation.numpy() <= 0] = -1.0
        found = []
        for _ in range(2):
            peak = np.unravel_index(int(score.argmax()), score.shape)
            if score[peak] <= 0:
                break
            # Fixed voxel i lies on moving voxel i + shift; both grids have the same cubic voxels.
            offset = np.subtract(grid.origin, fixed.grid.origin) + spacing * (lowest + peak)
            found.append(self.judge(name, matrix @ translation(offset)))
            score[tuple(slice(max(p - SMALL // 8, 0), p + SMALL // 8 + 1) for p in peak)] = -1.0
        return found


def _moments(placed: Placed) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass (um) and principal axes (columns, largest first) of the brighter part of an image."""
    weight = (placed.image - placed.image[placed.weights > 0].median()).clamp_min(0) * placed.weights
    w = weight.double().numpy().ravel()
    if not w.any():  # at least half of the voxels share the highest value
        w = placed.weights.double().numpy().ravel()
    points = Positions.of_grid(placed.grid).points()
    w = w / w.sum()
    centre = w @ points
    spread = (points - centre).T @ ((points - centre) * w[:, None])
    return centre, np.linalg.eigh(spread)[1][:, ::-1]
