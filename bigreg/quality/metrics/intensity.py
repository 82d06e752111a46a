"""How alike two images on one grid are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .tensors import Array, as_pair, as_tensor, like


@dataclass(frozen=True)
class CorrelationSummary:
    """Moments of pairs of intensities. `a + b` is the summary of both sets of voxels; `ncc` is their correlation."""

    voxels: int = 0
    mean_a: float = 0.0
    mean_b: float = 0.0
    squares_a: float = 0.0
    squares_b: float = 0.0
    products: float = 0.0

    @classmethod
    def of(cls, a: Array, b: Array, mask: Array | None = None) -> CorrelationSummary:
        """Summary of two images of one shape, of the voxels where `mask` is true (default all)."""
        a, b = as_pair(a, b)
        if mask is not None:
            keep = torch.as_tensor(mask, device=a.device).bool()
            a, b = a[keep], b[keep]
        if a.numel() == 0:
            return cls()
        mean_a, mean_b = a.mean(), b.mean()
        a, b = a - mean_a, b - mean_b
        sums = (float(v) for v in (mean_a, mean_b, a.square().sum(), b.square().sum(), (a * b).sum()))
        return cls(a.numel(), *sums)

    def __add__(self, other: CorrelationSummary) -> CorrelationSummary:
        n = self.voxels + other.voxels
        if n == 0:
            return self
        weight = self.voxels * other.voxels / n
        step_a, step_b = other.mean_a - self.mean_a, other.mean_b - self.mean_b
        return CorrelationSummary(
            voxels=n,
            mean_a=self.mean_a + step_a * other.voxels / n,
            mean_b=self.mean_b + step_b * other.voxels / n,
            squares_a=self.squares_a + other.squares_a + step_a**2 * weight,
            squares_b=self.squares_b + other.squares_b + step_b**2 * weight,
            products=self.products + other.products + step_a * step_b * weight,
        )

    @property
    def ncc(self) -> float:
        """Normalised cross-correlation; NaN where an image is constant or there is no voxel."""
        scale = math.sqrt(self.squares_a) * math.sqrt(self.squares_b)
        return self.products / scale if scale > 0 else math.nan


def ncc(a: Array, b: Array, mask: Array | None = None) -> float:
    """Normalised cross-correlation of two images over the voxels where `mask` is true (default all)."""
    return CorrelationSummary.of(a, b, mask).ncc


def local_correlation(
    a: Array, b: Array, mask: Array | None = None, radius: int = 4, texture_sd: float | None = None
) -> Array:
    """Correlation in a window of (2 radius + 1)^3 voxels around each textured voxel, (z, y, x); NaN elsewhere.

    Textured is a voxel in `mask` with at least half of its window's voxels in the mask and the volume, whose window
    has a standard deviation of at least `texture_sd` in `a`, the *fixed* image (default: a quarter of the standard
    deviation of `a` in the mask). Only the fixed image decides: where a bad map puts blank background on textured
    tissue, the correlation is 0 and not left out. In blocks, give one `texture_sd` for all and `radius` voxels of halo.
    """
    first = a
    a, b = as_pair(a, b)
    inside = torch.ones_like(a) if mask is None else torch.as_tensor(mask, device=a.device).bool().to(a.dtype)
    keep = inside > 0
    if texture_sd is None:
        texture_sd = 0.25 * float(a[keep].std(correction=0)) if bool(keep.any()) else 0.0
    if bool(keep.any()):  # sums of squares lose fewest digits around the mean
        a, b = a - a[keep].mean(), b - b[keep].mean()
    a, b = torch.where(keep, a, 0), torch.where(keep, b, 0)
    count = _box_sum(inside, radius).clamp(min=1)
    mean_a, mean_b = _box_sum(a, radius) / count, _box_sum(b, radius) / count
    variance_a = (_box_sum(a * a, radius) / count - mean_a**2).clamp(min=0)
    variance_b = (_box_sum(b * b, radius) / count - mean_b**2).clamp(min=0)
    covariance = _box_sum(a * b, radius) / count - mean_a * mean_b
    # Below this share of the image's own variance, a window's variance is rounding: such a window is flat.
    flat_b = variance_b <= 1e-12 * (b * b).sum() / inside.sum().clamp(min=1)
    value = torch.where(flat_b, 0, covariance / (variance_a * variance_b).sqrt().clamp(min=1e-300)).clamp(-1, 1)
    textured = keep & (count >= (2 * radius + 1) ** 3 / 2) & (variance_a >= texture_sd**2) & (variance_a > 0)
    return like(torch.where(textured, value, math.nan), first)


def local_ncc(a: Array, b: Array, mask: Array | None = None, radius: int = 4, texture_sd: float | None = None) -> float:
    """Mean of `local_correlation` over the textured voxels; NaN where there are none."""
    return float(as_tensor(local_correlation(a, b, mask, radius, texture_sd)).nanmean())


def structural_similarity(a: Array, b: Array, mask: Array | None = None, radius: int = 3, span: float = 1.0) -> Array:
    """SSIM in a window of (2 radius + 1)^3 voxels around each voxel, (z, y, x).

    Wang et al. (2004) with K1 = 0.01, K2 = 0.03, flat windows and sample covariances; `span` is the range of the
    intensities. NaN where the window is not wholly in `mask` (default all) and the volume.
    """
    first = a
    a, b = as_pair(a, b)
    inside = torch.ones_like(a) if mask is None else torch.as_tensor(mask, device=a.device).bool().to(a.dtype)
    a, b = torch.where(inside > 0, a, 0), torch.where(inside > 0, b, 0)
    n = (2 * radius + 1) ** 3
    whole = _box_sum(inside, radius) > n - 0.5
    mean_a, mean_b = _box_sum(a, radius) / n, _box_sum(b, radius) / n
    sample = n / (n - 1)
    variance_a = sample * (_box_sum(a * a, radius) / n - mean_a**2)
    variance_b = sample * (_box_sum(b * b, radius) / n - mean_b**2)
    covariance = sample * (_box_sum(a * b, radius) / n - mean_a * mean_b)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    value = value / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
    return like(torch.where(whole, value, math.nan), first)


def _box_sum(image: torch.Tensor, radius: int) -> torch.Tensor:
    """Sum over (2 radius + 1)^3 voxels, zeros outside the image."""
    for axis in range(3):
        n = image.shape[axis]
        pad = [0, 0, 0, 0, 0, 0]
        pad[4 - 2 * axis : 6 - 2 * axis] = radius + 1, radius
        total = torch.nn.functional.pad(image, pad).cumsum(axis)
        image = total.narrow(axis, 2 * radius + 1, n) - total.narrow(axis, 0, n)
    return image
