"""What two images are compared by when nothing is known of where they lie.

Raw intensities follow whatever is brightest: a bubble, debris, glow. Here they are evened out first, by ratios to the
level of the tissue or by ranks, and then only what differs from its surroundings is left, against how much it differs
there. So each place counts about as much as any other, however bright it is and whatever the contrast there.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy import ndimage

from ..similarity import gradient_directions
from .placed import Placed

Kind = Literal["band", "rank", "directions"]
BAND, FINE = 4.0, 2.0  # voxels: the SD of the surroundings
FLAT = 0.3  # of the mean contrast: where there is less, it is hardly amplified
NOISY = 0.1  # of the level of the tissue: noise at which an image is smoothed by a voxel
LEAST_SIGMA = 0.3  # voxels: a smaller smoothing does nothing
DARK = 0.002  # of the range: below, ratios mean nothing


def tissue_level(image: np.ndarray, weights: np.ndarray) -> float:
    """The median of what is brighter than background: Otsu's threshold (1979) on the logarithm.

    image (z, y, x) of about 0 .. 1; weights above 0 where it has data. Hardly moved by what is far brighter.
    """
    seen = np.clip(image[weights > 0], 0.0, None)
    dark = max(DARK, 3.0 * noise_level(image, weights))
    counts, edges = np.histogram(np.log1p(seen / dark), 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    mass = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below / below[-1] - mass) ** 2 / (below * (below[-1] - below))
    bright = seen[np.log1p(seen / dark) > centres[int(np.nanargmax(between[:-1]))]]
    return float(np.median(bright)) if bright.size else float(seen.max())


def evened(placed: Placed) -> np.ndarray:
    """x / (x + the level of the tissue): 0 .. 1, half at the tissue, however bright something else is.

    Evening makes noise in the dark larger, so a noisy image is smoothed before: by one voxel where its noise is a tenth
    of the level of the tissue or more, by less where it is less.
    """
    image, weights = np.clip(placed.image.numpy(), 0.0, None), placed.weights.numpy()
    level = max(tissue_level(image, weights), 1e-6)
    sigma = min(1.0, noise_level(image, weights) / level / NOISY)
    if sigma > LEAST_SIGMA:
        image = np.clip(ndimage.gaussian_filter(placed.image.numpy(), sigma), 0.0, None)
        level = max(tissue_level(image, weights), 1e-6)
    return image / (image + level)


def noise_level(image: np.ndarray, weights: np.ndarray) -> float:
    """The SD of white noise that would differ from the mean of its six neighbours as much as most voxels do."""
    six = ndimage.generate_binary_structure(3, 1).astype(np.float32) / 6.0
    six[1, 1, 1] = 0.0
    off = np.abs(image - ndimage.convolve(image, six))[weights > 0]
    return float(np.median(off)) / 0.6745 / np.sqrt(7.0 / 6.0)


def ranks(image: np.ndarray) -> np.ndarray:
    """The rank of each value of an image (z, y, x), from 1; equal values have the mean of theirs.

    As of `scipy.stats.rankdata`, whose import takes every process half a second.
    """
    _, place, count = np.unique(image, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - 0.5 * (count - 1))[place.reshape(image.shape)]


def turned_channels(channels: torch.Tensor, turn: np.ndarray) -> torch.Tensor:
    """Channels (C, z, y, x) of `structure`, of an image that lies at `turn` (3 x 3) times the places x, as seen at x.

    Intensities stay; of directions n the tensors n n^T become those of turn^T n. (One channel has no direction.)
    """
    if len(channels) == 1:
        return channels
    root = 0.5**0.5
    units = np.zeros((6, 3, 3))
    units[range(3), range(3), range(3)] = 1.0
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2)), start=3):
        units[k, i, j] = units[k, j, i] = root
    mixed = np.einsum("kij,lmn,mi,nj->kl", units, units, turn, turn)
    return torch.tensordot(torch.as_tensor(mixed, dtype=channels.dtype), channels, dims=1)


def structure(placed: Placed, kind: Kind) -> list[torch.Tensor]:
    """Channels (z, y, x) with a mean of about 0.

    band         evened intensities less their surroundings, by the contrast there
    rank         ranks of intensities less their near surroundings: for volumes full of cells
    directions   of the gradient, as tensors n n^T - |n|^2 / 3: bright may go with dark
    """
    if kind == "rank":
        image = placed.image.numpy()
        x = (ranks(image) / image.size).astype(np.float32)
    else:
        x = evened(placed)
    if kind == "directions":
        smooth = torch.as_tensor(ndimage.gaussian_filter(x, 1.0))
        # What is flatter than the mean of all slopes is noise.
        steep = float(torch.stack(torch.gradient(smooth)).square().sum(0).sqrt().mean())
        tensor = gradient_directions(smooth, placed.weights, noise=max(steep, 1e-6))
        tensor[:3] -= tensor[:3].mean(0)
        return list(tensor)
    if kind == "rank":
        return [torch.as_tensor(x - ndimage.gaussian_filter(x, FINE))]
    differs = x - ndimage.gaussian_filter(x, BAND)
    contrast = np.sqrt(ndimage.gaussian_filter(differs * differs, BAND))
    floor = FLAT * float(np.sqrt((differs * differs).mean())) + 1e-12
    return [torch.as_tensor(differs / (contrast + floor))]
