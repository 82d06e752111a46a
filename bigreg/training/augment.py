"""Changes of geometry, of a patch as it was read, and of contrast, of one image of a pair."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F

from ..transforms.bspline import evaluate
from .config import Augment, Contrast
from .contrast import curved, greyed
from .sources import Patch


def turned(patch: Patch, settings: Augment, rng: np.random.Generator) -> Patch:
    """The patch mirrored along random axes, and its axes of equal spacing and size exchanged; landmarks go along."""
    shape = np.array(patch.images.shape[1:])
    order = np.arange(3)
    if settings.permutations:
        alike = [
            p for p in permutations(range(3))
            if (shape[list(p)] == shape).all() and np.allclose(patch.spacing[list(p)], patch.spacing, rtol=0.05)
        ]  # fmt: skip
        order = np.array(alike[int(rng.integers(len(alike)))])
    flips = [a for a in range(3) if rng.integers(2)] if settings.flips else []

    def turn(values: np.ndarray) -> np.ndarray:
        out = values.transpose(0, *(order + 1))
        return np.ascontiguousarray(np.flip(out, tuple(a + 1 for a in flips)))

    points = patch.points[..., order].copy()
    for axis in flips:
        points[..., axis] = shape[order][axis] - 1 - points[..., axis]
    labels = None if patch.labels is None else turn(patch.labels)
    return Patch(turn(patch.images), turn(patch.masks), patch.spacing[order], labels, points)


def contrast(
    image: torch.Tensor, settings: Contrast, rng: np.random.Generator, labels: torch.Tensor | None = None
) -> torch.Tensor:
    """An image (z, y, x) of about 0 .. 1 with another exponent, gain, offset, shading, sharpness and noise.

    Before that, where `settings` say so, of greys that are drawn for its labels (z, y, x), or else through a curve.
    """
    if settings.greys is not None and labels is not None and rng.random() < settings.greys.probability:
        image = greyed(labels, settings.greys, rng)
    elif settings.curve is not None and rng.random() < settings.curve.probability:
        image = curved(image, settings.curve, rng)
    low, high = settings.gamma
    gamma = math.exp(rng.uniform(math.log(low), math.log(high)))
    gain, offset, noise, blur = (
        float(rng.uniform(*r)) for r in (settings.gain, settings.offset, settings.noise, settings.blur)
    )
    out = torch.sign(image) * image.abs().pow(gamma) * gain + offset
    if settings.bias > 0:
        knots = torch.as_tensor(rng.uniform(-1, 1, (1, 6, 6, 6)).astype(np.float32), device=image.device)
        samples = [-(-n // 2) for n in image.shape]
        shading = evaluate(knots, samples)[0][tuple(slice(0, n) for n in image.shape)]
        out = out * torch.exp(settings.bias * shading)
    if blur > 0.2:  # below it a Gaussian of three voxels does nothing
        out = blurred(out, blur)
    if noise > 0:
        generator = torch.Generator(image.device).manual_seed(int(rng.integers(2**62)))
        out = out + noise * torch.randn(image.shape, generator=generator, device=image.device)
    return out


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """An image (z, y, x) under a Gaussian of `sigma` voxels; border values repeated."""
    radius = max(1, math.ceil(3 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).reshape(1, 1, -1)
    for axis in range(3):
        lines = image.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        image = F.conv1d(flat, kernel).reshape(lines.shape).movedim(-1, axis)
    return image.contiguous()
