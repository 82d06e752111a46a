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
        lowest, highest = _possible(self.mask, mask, self.least)
        # A shift that is looked at may fold only onto one that leaves nothing in common.
        size = tuple(_fast(int(n)) for n in np.maximum(mask.shape - lowest, highest + self.mask.shape))
        if size not in self._spectra:
            self._spectra[size] = [s.conj() for s in _spectra(self.channels, self.mask, size)]
        one_f, square_f, *fixed = self._spectra[size]
        one_m, square_m, *moving = _spectra(channels, mask, size)
        places = [
            torch.as_tensor(np.arange(low, high + 1) % n) for low, high, n in zip(lowest, highest, size, strict=True)
        ]

        def back(spectrum: torch.Tensor) -> torch.Tensor:
            # One axis after another, so that what no shift needs is not transformed along the next.
            for axis in (0, 1):
                spectrum = torch.fft.ifft(spectrum, dim=axis).index_select(axis, places[axis])
            return torch.fft.irfft(spectrum, n=size[2], dim=2).index_select(2, places[2])

        count = back(one_f * one_m).round()  # masks are 0 and 1
        product = back(cast(torch.Tensor, sum(f * m for f, m in zip(fixed, moving, strict=True))))
        least_f, least_m = (LEAST_STRUCTURE * max(float(s[0, 0, 0].real), 1e-20) for s in (square_f, square_m))
        norm = (back(square_f * one_m).clamp_min(least_f) * back(one_f * square_m).clamp_min(least_m)).sqrt()
        correlation = torch.where(count >= self.least, (product / norm).clamp(-1.0, 1.0), -1.0)
        return lowest, correlation, count


def _possible(fixed: torch.Tensor, moving: torch.Tensor, least: float) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest shift (3,) along each axis that may leave `least` voxels of two masks in common.

    Of two planes no more voxels overlap than the emptier one has, and than a rectangle of the shorter edges holds.
    """
    low, high = [], []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        most = float(np.prod([min(fixed.shape[a], moving.shape[a]) for a in others]))
        f, m = (mask.float().sum(others).clamp_max(most).numpy() for mask in (fixed, moving))
        # Row s holds moving's planes as they lie on those of fixed under the shift s - (len(f) - 1).
        laid = np.lib.stride_tricks.sliding_window_view(np.pad(m, len(f) - 1), len(f))
        common = np.minimum(laid, f).sum(1)
        kept = np.flatnonzero(common >= min(least, common.max())) - (len(f) - 1)
        low.append(kept[0])
        high.append(kept[-1])
    return np.array(low), np.array(high)


def _spectra(channels: list[torch.Tensor], mask: torch.Tensor, size: tuple[int, ...]) -> list[torch.Tensor]:
    """Transforms of the mask, of the sum of squares under it, and of each masked channel."""
    w = mask.float()
    seen = [c.float() * w for c in channels]
    return [_transform(p, size) for p in (w, cast(torch.Tensor, sum(c * c for c in seen)), *seen)]


def _transform(image: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """What `rfftn` gives, without transforming the rows that are only padding."""
    spectrum = torch.fft.rfft(image, n=size[2], dim=2)
    return torch.fft.fft(torch.fft.fft(spectrum, n=size[1], dim=1), n=size[0], dim=0)


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
