"""How well a map lays one small image on the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..similarity import local_correlation
from ..similarity.lncc import box_sum
from ..transforms.affine import polar_rotation
from .placed import Placed, sampled
from .structure import Kind, evened, structure, turned_channels

SMALL = 48  # voxels along the longest axis of the copies
RADIUS = 3  # voxels of a window of the local correlation
NOISE = 0.02  # SD of evened intensities that means nothing
STRETCHED = 0.2  # SD of the logarithms of an affine's three scales at which a map is half as likely


def evidence(correlation: np.ndarray | float, share: np.ndarray | float) -> np.ndarray:
    """How much a correlation over a share of the image says: Fisher's z times the root of the number of samples.

    Over a small share a high correlation arises by chance, so the share counts.
    """
    return np.arctanh(np.clip(correlation, -0.999, 0.999)) * np.sqrt(share)


@dataclass(frozen=True, eq=False)
class Start:
    """A candidate map fixed world -> moving world (4 x 4, um), judged where structure meets structure.

    What one image shows and the other does not is no evidence against a map: it may be a part, or torn, or dirty.

    correlation   of the structure
    local         mean over windows, each of which counts alike however bright it is
    shared        share of the structure of the image that has less of it
    overlap       share of the smaller image
    """

    name: str
    matrix: np.ndarray
    correlation: float
    local: float
    shared: float
    overlap: float

    @property
    def score(self) -> float:
        """The evidence, less where one axis is stretched against another: so wrong maps fit, and few specimens do."""
        stretch = np.log(np.linalg.svd(self.matrix[:3, :3], compute_uv=False)).std()
        fit = float(evidence(0.5 * (self.correlation + self.local), self.shared))
        return fit / (1.0 + (stretch / STRETCHED) ** 2) if fit > 0 else fit

    @property
    def mirrored(self) -> bool:
        return bool(np.linalg.det(self.matrix[:3, :3]) < 0)


class Judge:
    """Small copies of both images. `signless`: bright may go with dark."""

    def __init__(self, fixed: Placed, moving: Placed, signless: bool = False) -> None:
        extent = max(max(np.multiply(p.grid.shape, p.grid.spacing)) for p in (fixed, moving))
        self.spacing = extent / SMALL
        self.signless = signless
        self.fixed, self.moving = (p.isotropic(self.spacing) for p in (fixed, moving))
        self.voxels = min(p.volume for p in (self.fixed, self.moving)) / self.spacing**3
        kind: Kind = "directions" if signless else "band"
        self._channels = [
            torch.stack([*structure(p, kind), torch.as_tensor(evened(p))]) for p in (self.fixed, self.moving)
        ]
        textured = [
            self._texture(c[-1], p.weights, _voxels(p.weights))
            for c, p in zip(self._channels, (self.fixed, self.moving), strict=True)
        ]
        self.textured = max(1.0, min(float(t.sum()) for t in textured))

    def __call__(self, name: str, matrix: np.ndarray) -> Start:
        f, grid = self._channels[0], self.fixed.grid
        m, mask = sampled(self._channels[1], self.moving.mask, self.moving.grid, grid, matrix)
        keep = ((mask * self.fixed.weights) > 0).float()
        overlap = min(1.0, float(keep.sum()) / self.voxels)
        voxels = _voxels(keep)
        both = self._texture(f[-1], keep, voxels) * self._texture(m[-1], keep, voxels)
        count = float(both.sum())
        if count < 8:
            return Start(name, matrix, -1.0, -1.0, 0.0, overlap)
        a, b = f[:-1] * both, turned_channels(m[:-1], polar_rotation(matrix)) * both
        norm = float((a * a).sum(dtype=torch.float64) * (b * b).sum(dtype=torch.float64)) ** 0.5
        correlation = value = float((a * b).sum(dtype=torch.float64)) / norm if norm > 0 else -1.0
        if not self.signless:  # directions are normalised at each place
            local = local_correlation(f[-1], m[-1].contiguous(), keep, radius=RADIUS, noise=NOISE)
            value = float((local * both).sum(dtype=torch.float64)) / count
        return Start(name, matrix, correlation, value, min(1.0, count / self.textured), overlap)

    @staticmethod
    def _texture(image: torch.Tensor, keep: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
        """1 where a window of so many voxels differs within itself by more than noise."""
        mean = box_sum(image * keep, RADIUS) / voxels
        variance = box_sum(image * image * keep, RADIUS) / voxels - mean * mean
        return ((variance > 4 * NOISE**2) & (keep > 0)).float()


def _voxels(keep: torch.Tensor) -> torch.Tensor:
    """How many voxels (z, y, x) of those to keep each window has; at least 1."""
    return box_sum(keep, RADIUS).clamp_min(1.0)
