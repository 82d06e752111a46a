"""Correlation of two masked images for every whole-voxel shift at once, by FFT."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

LEAST_STRUCTURE = 1e-3
"""Share of an image's structure: an overlap that holds less of it counts as if it held so much."""


class ShiftSearch:
    """The cosine over the overlap of one fixed image with one moving image after another.

    The images are given as channels of mean about 0, which count together, as the components of one vector. Transforms
    of the fixed image are kept, since it meets the moving image once for every rotation that is tried.
    """

    def __init__(self, channels: list[torch.Tensor], mask: torch.Tensor, least: float) -> None:
        self.channels, self.mask, self.least = channels, mask, least
        self._spectra: dict[tuple[int, ...], list[torch.Tensor]] = {}

    def __call__(
        self, channels: list[torch.Tensor], mask: torch.Tensor
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """(lowest shift (3,), cosines (z, y, x), voxels of overlap (z, y, x)).

        Element k stands for the shift t = lowest + k, which lays fixed voxel i on moving voxel i + t. The cosine
        is -1 where fewer than `least` voxels overlap; shifts that cannot leave so many are not among them.
        """
        smaller = np.minimum(self.mask.shape, mask.shape)
        # Along each axis so many voxels overlap at least where `least` do in all: shifts that leave fewer need not
        # be told from those that they fold onto, and the transforms are as much shorter.
        need = np.clip(np.ceil(self.least * smaller / smaller.prod()), 1, smaller).astype(int)
        lowest, shape = need - self.mask.shape, np.add(self.mask.shape, mask.shape) - 2 * need + 1
        size = tuple(_fast(int(n)) for n in shape + need - 1)
        if size not in self._spectra:
            self._spectra[size] = [s.conj() for s in _spectra(self.channels, self.mask, size)]
        one_f, square_f, *fixed = self._spectra[size]
        one_m, square_m, *moving = _spectra(channels, mask, size)
        places = [torch.as_tensor((low + np.arange(n)) % m) for low, n, m in zip(lowest, shape, size, strict=True)]

        def back(spectrum: torch.Tensor) -> torch.Tensor:
            found = torch.fft.irfftn(spectrum, s=size)
            for axis, place in enumerate(places):
                found = found.index_select(axis, place)
            return found

        count = back(one_f * one_m).round()  # masks are 0 and 1
        product = back(cast(torch.Tensor, sum(f * m for f, m in zip(fixed, moving, strict=True))))
        least_f, least_m = (LEAST_STRUCTURE * max(float(s[0, 0, 0].real), 1e-20) for s in (square_f, square_m))
        norm = (back(square_f * one_m).clamp_min(least_f) * back(one_f * square_m).clamp_min(least_m)).sqrt()
        correlation = torch.where(count >= self.least, (product / norm).clamp(-1.0, 1.0), -1.0)
        return lowest, correlation, count


def _spectra(channels: list[torch.Tensor], mask: torch.Tensor, size: tuple[int, ...]) -> list[torch.Tensor]:
    """Transforms of the mask, of the sum of squares under it, and of each masked channel."""
    w = mask.float()
    seen = [c.float() * w for c in channels]
    return [torch.fft.rfftn(p, s=size) for p in (w, sum(c * c for c in seen), *seen)]


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
