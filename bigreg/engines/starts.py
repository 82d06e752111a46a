"""Where a global registration may start: all shifts under small rotations, centres of mass, principal axes, identity.

All on small isotropic copies of both images. The best few by one metric, on enough overlap, are handed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..geometry import Grid
from ..transforms.affine import about, translation
from ..transforms.positions import Positions

SMALL = 48  # voxels along the longest axis of the copies that are searched


@dataclass(frozen=True)
class Start:
    """A candidate map fixed world -> moving world (4 x 4, um) and its NCC on the overlap of the small copies."""

    name: str
    matrix: np.ndarray
    score: float
    overlap: float


@dataclass(frozen=True)
class Placed:
    """An image (z, y, x) in 0..1 on an axis-aligned grid."""

    image: torch.Tensor
    grid: Grid

    def on(self, grid: Grid, matrix: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The image seen from another grid through `matrix` (that grid's world to its own), and where it has data."""
        there = Positions.of_grid(grid).through(matrix)
        box = self.image.numpy()
        inside = there.inside(self.grid)
        values = there.sample(lambda a, b: box[tuple(slice(x, y) for x, y in zip(a, b, strict=True))], self.grid)[0]
        return values * inside, inside.to(values.dtype)

    def isotropic(self, spacing: float) -> Placed:
        """A copy with cubic voxels, smoothed against aliasing."""
        sigma = [0.5 * max(spacing / s - 1.0, 0.0) for s in self.grid.spacing]
        smooth = Placed(torch.as_tensor(ndimage.gaussian_filter(self.image.numpy(), sigma)), self.grid)
        grid = self.grid.resampled((spacing,) * 3)
        grid = Grid.from_spacing(
            grid.shape, (spacing,) * 3, np.mean(grid.bounds(), 0) - spacing * (np.array(grid.shape) - 1) / 2
        )
        return Placed(smooth.on(grid, np.eye(4))[0], grid)

    def banded(self) -> Placed:
        """Compressed and band-passed: structure rather than brightness."""
        x = np.sqrt(np.clip(self.image.numpy(), 0.0, 2.0))
        return Placed(torch.as_tensor(ndimage.gaussian_filter(x, 1.0) - ndimage.gaussian_filter(x, 6.0)), self.grid)


def shift_scores(
    fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, least: float
) -> tuple[np.ndarray, torch.Tensor]:
    """NCC of the overlap for every whole-voxel shift, by FFT (Padfield 2012).

    fixed is whole, moving has a mask. Returns (lowest shift (3,), scores (z, y, x) with -1 where fewer than `least`
    voxels overlap); a shift t puts fixed voxel i on moving voxel i + t.
    """
    shape = [a + b - 1 for a, b in zip(fixed.shape, moving.shape, strict=True)]
    size = [_fast(n) for n in shape]
    f, m, w = fixed.double(), (moving * mask).double(), mask.double()
    transform = lambda x: torch.fft.rfftn(x, s=size)  # noqa: E731
    one, tf, tff = (transform(x).conj() for x in (torch.ones_like(f), f, f * f))
    tw, tm, tmm = (transform(x) for x in (w, m, m * m))
    back = lambda x: torch.fft.irfftn(x, s=size)  # noqa: E731
    n = back(one * tw).clamp_min(1e-9)
    sf, sm = back(tf * tw), back(one * tm)
    covariance = back(tf * tm) - sf * sm / n
    variance = (back(tff * tw) - sf * sf / n).clamp_min(0) * (back(one * tmm) - sm * sm / n).clamp_min(0)
    floor = 1e-12 * float(variance.max())
    score = torch.where((n >= least) & (variance > floor), covariance / variance.clamp_min(floor + 1e-300).sqrt(), -1.0)
    score = torch.roll(score, [a - 1 for a in fixed.shape], dims=(0, 1, 2))[tuple(slice(0, k) for k in shape)]
    return -(np.array(fixed.shape) - 1), score


def _fast(n: int) -> int:
    """The next length whose prime factors an FFT likes."""
    while True:
        left = n
        for p in (2, 3, 5):
            while left % p == 0:
                left //= p
        if left == 1:
            return n
        n += 1


def overlap_score(fixed: Placed, moving: Placed, matrix: np.ndarray) -> tuple[float, float]:
    """(NCC on the overlap, overlap as a fraction of the smaller image) of two images through a map."""
    values, mask = moving.on(fixed.grid, matrix)
    keep = mask > 0
    smaller = min(fixed.grid.voxels * np.prod(fixed.grid.spacing), moving.grid.voxels * np.prod(moving.grid.spacing))
    fraction = float(keep.sum()) * np.prod(fixed.grid.spacing) / smaller
    if int(keep.sum()) < 8:
        return -1.0, fraction
    a, b = fixed.image[keep].double(), values[keep].double()
    a, b = a - a.mean(), b - b.mean()
    norm = float(a.norm() * b.norm())
    return (float(a @ b) / norm if norm > 0 else -1.0), fraction


def _moments(placed: Placed) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass (um) and principal axes (columns, largest first) of the brighter part of an image."""
    weight = (placed.image - placed.image.median()).clamp_min(0).double().numpy()
    points = Positions.of_grid(placed.grid).points()
    w = weight.ravel() / max(weight.sum(), 1e-12)
    centre = w @ points
    spread = (points - centre).T @ ((points - centre) * w[:, None])
    return centre, np.linalg.eigh(spread)[1][:, ::-1]


def find_starts(fixed: Placed, moving: Placed, rotations_deg: float, min_overlap: float) -> list[Start]:
    """All candidates with enough overlap, best first."""
    extent = max(max(np.multiply(p.grid.shape, p.grid.spacing)) for p in (fixed, moving))
    small = [p.isotropic(extent / SMALL) for p in (fixed, moving)]
    f, m = (p.banded() for p in small)
    centre = np.mean(m.grid.bounds(), axis=0)
    least = min_overlap * min(f.grid.voxels, m.grid.voxels)
    found: list[Start] = []

    def consider(name: str, matrix: np.ndarray) -> None:
        score, overlap = overlap_score(f, m, matrix)
        if overlap >= min_overlap:
            found.append(Start(name, matrix, score, overlap))

    def search(angles: tuple[float, float, float]) -> None:
        turn = about(Rotation.from_rotvec(np.deg2rad(angles)).as_matrix(), centre)
        turned, mask = m.on(m.grid, turn)
        low, score = shift_scores(f.image, turned, mask, least)
        best = np.array(np.unravel_index(int(score.argmax()), score.shape)) + low
        # Fixed voxel i lies on moving voxel i + best; both grids have the same cubic voxels.
        offset = np.asarray(m.grid.origin) - f.grid.origin + best * np.asarray(f.grid.spacing)
        consider(f"all shifts, rotated {angles} degrees", turn @ translation(offset))

    search((0.0, 0.0, 0.0))
    if rotations_deg > 0:
        for axis, angle in product(range(3), (-rotations_deg, -rotations_deg / 2, rotations_deg / 2, rotations_deg)):
            angles = [0.0, 0.0, 0.0]
            angles[axis] = angle
            search(tuple(angles))
    consider("as they lie", np.eye(4))
    (cf, af), (cm, am) = _moments(small[0]), _moments(small[1])
    consider("centres of mass", translation(cm - cf))
    for signs in product((1.0, -1.0), repeat=3):
        turn = am @ np.diag(signs) @ af.T
        if np.linalg.det(turn) > 0 and np.trace(turn) > 1.0 + 2.0 * np.cos(np.deg2rad(45.0)) - 1e-9:
            consider("principal axes", about(turn, cf, cm))
    return sorted(found, key=lambda s: -s.score)
