"""Pairs whose answer is known: one image seen through a random smooth invertible map and through its inverse.

With a velocity w on the patch and I the image, F = I o exp(-w) and M = I o exp(w), so that in mid-space

    F o exp(w) = I = M o exp(-w)      fixed_to_moving = exp(-2 w)      moving_to_fixed = exp(2 w)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..transforms.bspline import BOUND_CELLS, evaluate, squarings
from ..transforms.field import compose, exponential, identity, sample
from .config import Deformation
from .sources import Patch, as_tensor

UNIT = (1.0, 1.0, 1.0)  # displacements are in voxels


@dataclass(frozen=True)
class Known:
    """The four maps (3, z, y, x), voxels, as in networks.Prediction."""

    to_fixed: torch.Tensor
    to_moving: torch.Tensor
    fixed_to_moving: torch.Tensor
    moving_to_fixed: torch.Tensor


def margin(settings: Deformation) -> int:
    """Voxels around a patch that its deformed images may see."""
    return int(np.ceil(settings.largest)) + 1


def velocity(
    shape: tuple[int, ...], settings: Deformation, rng: np.random.Generator, device: torch.device
) -> tuple[torch.Tensor, int]:
    """A random velocity (3, z, y, x), voxels, nowhere longer than `settings.largest`, and how often to square.

    Its strain is bounded as that of one level of a registration is: coefficients, in cells, sum up to BOUND_CELLS.
    """
    total = torch.zeros(3, *shape, device=device)
    strain = 0.0
    for cell in settings.cells:
        size = [-(-n // cell) + 4 + 1 for n in shape]  # one cell more, so that the lattice may lie anywhere
        coefficients = rng.standard_normal((3, *size)).astype(np.float32) * cell**settings.roughness
        shift = rng.integers(cell, size=3)
        field = evaluate(torch.as_tensor(coefficients, device=device), (cell,) * 3)
        total += field[(slice(None), *(slice(int(s), int(s) + n) for s, n in zip(shift, shape, strict=True)))]
        strain += float(np.abs(coefficients).max()) / cell
    longest = float(total.square().sum(0).max()) ** 0.5
    wanted = settings.largest * rng.uniform(settings.least, 1.0)
    scale = min(wanted / longest, BOUND_CELLS / strain)
    finest = min(settings.cells)
    return total * scale, squarings(strain * scale, (min(finest, 16),) * 3, accuracy=3)


def deformed(
    patch: Patch, settings: Deformation, rng: np.random.Generator, device: torch.device
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor] | None, Known]:
    """Images, masks and labels (or None) of both sides, (z, y, x) each without the margin, and the maps between."""
    edge = margin(settings)
    inner = (slice(None), *[slice(edge, -edge)] * 3)
    v, steps = velocity(patch.images.shape[1:], settings, rng, device)
    out, back = exponential(v, UNIT, steps), exponential(-v, UNIT, steps)
    image, mask = as_tensor(patch.images, device), as_tensor(patch.masks, device)
    images, masks, labels = [], [], []
    for displacement in (back, out):
        place = (identity(v.shape[1:], device=device) + displacement)[inner].contiguous()
        images.append(sample(image, place)[0])
        masks.append((sample(mask, place)[0] > 0.999).float())
        if patch.labels is not None:
            labels.append(sample(as_tensor(patch.labels, device), place, "nearest")[0].long())
    known = Known(
        out[inner].contiguous(),
        back[inner].contiguous(),
        compose(back, back, UNIT)[inner].contiguous(),
        compose(out, out, UNIT)[inner].contiguous(),
    )
    return images, masks, labels or None, known
