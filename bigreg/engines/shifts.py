"""Correlation of two masked images for every whole-voxel shift at once, by FFT."""

from __future__ import annotations

import numpy as np
import torch


class ShiftSearch:
    """Masked normalised cross-correlation (Padfield 2012) of one fixed image with one moving image after another.

    The images are given as channels, which are correlated each by itself: a score is the mean of their coefficients. Or
    they are the components of one `vector`, whose cosine over the overlap is the score.
    Transforms of the fixed image are kept, since it meets the moving image once for every rotation that is tried.
    """

    def __init__(self, channels: list[torch.Tensor], mask: torch.Tensor, least: float, *, vector: bool = False) -> None:
        self.channels, self.mask, self.least, self.vector = channels, mask, least, vector
        self._spectra: dict[tuple[int, ...], list[torch.Tensor]] = {}

    def __call__(
        self, channels: list[torch.Tensor], mask: torch.Tensor
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """(lowest shift (3,), correlations (z, y, x), voxels of overlap (z, y, x)).

        Element k stands for the shift t = lowest + k, which lays fixed voxel i on moving voxel i + t. The correlation
        is -1 where fewer than `least` voxels overlap or an image is constant there.
        """
        shape = [a + b - 1 for a, b in zip(self.mask.shape, mask.shape, strict=True)]
        size = tuple(_fast(n) for n in shape)
        if size not in self._spectra:
            self._spectra[size] = [s.conj() for s in _spectra(self.channels, self.mask, size, self.vector)]
        one_f, *fixed = self._spectra[size]
        one_m, *moving = _spectra(channels, mask, size, self.vector)

        def back(spectrum: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfftn(spectrum, s=size)

        count = back(one_f * one_m).round()  # masks are 0 and 1
        n = count.clamp_min(1.0)
        total = torch.zeros_like(n)
        if self.vector:
            product = back(sum(f * m for f, m in zip(fixed[::2], moving[::2], strict=True)))
            var_f, var_m = back(sum(fixed[1::2]) * one_m), back(one_f * sum(moving[1::2]))
            textured = (var_f > 1e-4 * float(var_f.max())) & (var_m > 1e-4 * float(var_m.max()))
            norm = (var_f.clamp_min(0) * var_m.clamp_min(0)).sqrt()
            total = torch.where(textured, (product / norm).clamp(-1.0, 1.0), -1.0) * len(channels)
        for c in range(0 if self.vector else len(channels)):
            (f, ff), (m, mm) = fixed[2 * c : 2 * c + 2], moving[2 * c : 2 * c + 2]
            sum_f, sum_m = back(f * one_m), back(one_f * m)
            covariance = back(f * m) - sum_f * sum_m / n
            var_f = back(ff * one_m) - sum_f * sum_f / n
            var_m = back(one_f * mm) - sum_m * sum_m / n
            # Single precision leaves about 1e-6 of the largest sum where an image is constant.
            textured = (var_f > 1e-5 * float(one_f[0, 0, 0].real)) & (var_m > 1e-5 * float(one_m[0, 0, 0].real))
            norm = (var_f.clamp_min(0) * var_m.clamp_min(0)).sqrt()
            total += torch.where(textured, (covariance / norm).clamp(-1.0, 1.0), -1.0)
        correlation = torch.where(count >= self.least, total / len(channels), -1.0)
        lowest = 1 - np.array(self.mask.shape)
        box = tuple(slice(0, k) for k in shape)
        correlation, count = (torch.roll(x, (-lowest).tolist(), dims=(0, 1, 2))[box] for x in (correlation, count))
        return lowest, correlation, count


def _spectra(
    channels: list[torch.Tensor], mask: torch.Tensor, size: tuple[int, ...], vector: bool
) -> list[torch.Tensor]:
    """Transforms of the mask and, for each channel, of its masked values and their squares."""
    w = mask.float()
    parts = [w]
    for channel in channels:
        if vector:
            parts += [channel * w, channel * channel * w]
            continue
        # Mean 0 and SD 1: sums of squares stay small, and with them what rounding leaves of their differences.
        mean = (channel * w).sum() / w.sum()
        values = (channel.float() - mean) * w
        values = values / ((values * values).sum() / w.sum()).sqrt().clamp_min(1e-6 * (1e-6 + mean.abs()))
        parts += [values, values * values]
    return [torch.fft.rfftn(p, s=size) for p in parts]


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
