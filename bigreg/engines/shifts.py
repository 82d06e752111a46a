"""Correlation of two masked images for every whole-voxel shift at once, by FFT."""

from __future__ import annotations

import numpy as np
import torch
from scipy import fft

LEAST_STRUCTURE = 1e-3
"""Share of an image's structure: an overlap that holds less of it counts as if it held so much."""


class ShiftSearch:
    """The cosine over the overlap of one fixed image with one moving image after another.

    The images are given as channels of mean about 0, which count together, as the components of one vector. Transforms
    of the fixed image are kept, since it meets the moving image once for every rotation that is tried.
    """

    def __init__(self, channels: list[torch.Tensor], mask: torch.Tensor, least: float) -> None:
        self.mask, self.least = mask, least
        self.whole = bool((mask > 0).all())
        self._seen = _seen(channels, mask)
        self._spectra: dict[tuple[int, ...], list[np.ndarray]] = {}

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
            self._spectra[size] = [_transform(image, size).conj() for image in self._seen]
        one_f, squares_f, *fixed = self._spectra[size]
        seen = _seen(channels, mask)
        one_m, *moving = (_transform(image, size) for image in (seen[0], *seen[2:]))

        def back(spectrum: np.ndarray) -> np.ndarray:
            return _back(spectrum, size, lowest, highest)

        product = back(sum((f * m for f, m in zip(fixed[1:], moving[1:], strict=True)), fixed[0] * moving[0]))
        parts = self._seen[1], seen[1]
        least_f, least_m = (np.float32(LEAST_STRUCTURE * max(float(p.sum(dtype=np.float64)), 1e-20)) for p in parts)
        norm = np.maximum(back(squares_f * one_m), least_f)
        if self.whole:  # moving's voxels and squares over a box of fixed need no transform
            count, squares_m = _box_sums(np.stack(seen[:2]), self.mask.shape, lowest, highest)
        else:
            count, squares_m = back(one_f * one_m), back(one_f * _transform(seen[1], size))
        norm = np.sqrt(norm * np.maximum(squares_m, least_m))
        count = np.round(count)  # masks are 0 and 1
        cosines = np.where(count >= self.least, np.clip(product / norm, -1.0, 1.0), np.float32(-1.0))
        return lowest, torch.from_numpy(cosines), torch.from_numpy(count)


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


def _seen(channels: list[torch.Tensor], mask: torch.Tensor) -> list[np.ndarray]:
    """Arrays (z, y, x): the mask, the sum of squares under it, and each masked channel."""
    weights = mask.float().numpy()
    seen = [channel.float().numpy() * weights for channel in channels]
    return [weights, np.sum([image * image for image in seen], axis=0), *seen]


def _transform(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """What `rfftn` gives, without transforming the rows that are only padding.

    By SciPy: PyTorch's takes a quarter longer to transform what is so small, and twice as long to transform it back.
    """
    spectrum = fft.rfft(image, n=size[2], axis=2)
    return fft.fft(fft.fft(spectrum, n=size[1], axis=1), n=size[0], axis=0, overwrite_x=True)


def _back(spectrum: np.ndarray, size: tuple[int, ...], lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """The image (z, y, x) of a spectrum at the shifts from lowest to highest."""
    places = [np.arange(low, high + 1) % n for low, high, n in zip(lowest, highest, size, strict=True)]
    # One axis after another, so that what no shift needs is not transformed along the next.
    for axis in (0, 1):
        spectrum = fft.ifft(spectrum, axis=axis, overwrite_x=True).take(places[axis], axis)
    return fft.irfft(spectrum, n=size[2], axis=2, overwrite_x=True).take(places[2], 2)


def _box_sums(images: np.ndarray, box: torch.Size, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Sums of images (N, z, y, x) over a box at the shifts from lowest to highest, as far as it reaches into them."""
    reach = []
    for axis, n in enumerate(images.shape[1:]):
        first = torch.arange(int(lowest[axis]), int(highest[axis]) + 1)[:, None]
        voxel = torch.arange(n)
        reach.append(((first <= voxel) & (voxel < first + box[axis])).float())
    # As products of matrices: in float32, and exact for counts.
    sums = reach[1] @ (torch.from_numpy(images) @ reach[2].T)
    return (reach[0] @ sums.flatten(2)).unflatten(2, sums.shape[2:]).numpy()


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
