"""How far a velocity may be off: the SD of its control points, in closed form from the images where they end up.

Two images of one thing, each with noise of its own, determine a motion with the covariance noise x (curvature +
membrane)^-1. Both are those of the local correlation of the images under the velocity, whatever that was found by:

noise       2 (1 - r), the variance of the difference of two images of unit variance that correlate by r
curvature   as in gauss_newton.py, but by products of the one image's slopes with the other's. What they share remains;
            the slopes of their noise, which are no texture, cancel. It is averaged over a point and its neighbours, as
            is the noise, since both are estimates
membrane    the engine's, a tenth of it: maps are less smooth than it has them

A control point's own 3 x 3 block stands for the whole system: its neighbours' being uncertain makes it hardly more so
where the lattice has three axes. One factor a similarity makes this the error that is measured on known maps. See
tests/benchmarks/sigma.py and RESULTS.md for that and for what else was tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from ..similarity import by_name, local_correlation
from ..transforms.bspline import adjoint
from .base import PatchPair
from .gauss_newton import PAIRS, MidSpacePair
from .membrane import inverses, own_blocks

RADIUS, NOISE = 3, 0.02  # of the local correlation: what the factors were measured with
ONE_CONTRAST = ("lncc", "ncc", "mse")
FACTORS = {
    "lncc": 0.48, "lncc_squared": 0.48, "ncc": 0.48, "mse": 0.48, "mi": 0.59, "nmi": 0.59, "mind": 1.1, "ngf": 1.1,
}  # fmt: skip
"""SD of the error that was measured over that of the closed form, by what a velocity is found by: for lncc, mi and
mind; of the others, that of the nearest of these."""
OF_REGULARISER = {"bending": 0.8}
"""Times this, by what the velocity was kept smooth by: a map that is bent little is shaken less by noise."""
MEMBRANE = 0.1
LEAST_NOISE = 2e-3  # images that are equal voxel by voxel are one image twice
LEAST_SEEN = 1e-3  # of a control point's voxels that both images show, below which nothing is known of it


def velocity_sigma(
    pair: PatchPair,
    c: torch.Tensor,
    similarity: str,
    samples: Sequence[int],
    stiffness: torch.Tensor,
    regulariser: str = "membrane",
) -> torch.Tensor:
    """(3, z, y, x) SD of the control points c (3, z, y, x) along each axis, both in voxels; NaN where nothing is known.

    Of several pairs of channels the curvatures add up, times the weights, and the noise is their mean, by how much each
    has to say. Labels are left out: what they are off by is not in the images.

    similarity   what they were found by, one of FACTORS, where a channel does not say another
    stiffness    (3 components, 3 axes) of a lattice edge, in units of the loss
    regulariser  what they were kept smooth by (see regularisers.KINDS)
    """
    found = [
        (one.weight, FACTORS[one.similarity or similarity], _told(pair.of_channel(one), c, similarity, samples))
        for one in pair.channels
        if not one.labels
    ]
    factor = max(f for _, f, _ in found) * OF_REGULARISER.get(regulariser, 1.0)
    if len(found) == 1:
        weight, _, (texture, noise, known) = found[0]
        texture = texture if weight == 1.0 else weight * texture
    else:
        texture = cast(torch.Tensor, sum(weight * texture for weight, _, (texture, _, _) in found))
        shares = [weight * one[0][:3].sum(0) * one[2] + 1e-12 * one[2] for weight, _, one in found]
        total = torch.stack(shares).sum(0).clamp_min(1e-30)
        noise = torch.stack([share * one[1] for share, (_, _, one) in zip(shares, found, strict=True)]).sum(0) / total
        known = torch.stack([one[2] for _, _, one in found]).any(0)
    blocks = inverses(own_blocks(texture, MEMBRANE * stiffness))
    variance = torch.stack([blocks[axis, axis] for axis in range(3)]) * noise
    return torch.where(known, factor * variance.clamp_min(0.0).sqrt(), torch.nan)


def _told(
    pair: PatchPair, c: torch.Tensor, similarity: str, samples: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of one pair of channels at control points: curvature (6, z, y, x), noise (z, y, x), and where it is known."""
    similarity = pair.similarity or similarity
    signed = similarity in ONE_CONTRAST
    by = by_name("lncc" if signed else "lncc_squared", radius=RADIUS, noise=NOISE)
    images = MidSpacePair(pair.fixed, pair.moving, pair.fixed_mask, pair.moving_mask, by, samples)
    fixed, moving, mask = images.warped(c)
    curvature = torch.zeros(6, *c.shape[1:], dtype=c.dtype, device=c.device)
    unlike = torch.zeros_like(mask)
    for f, m in zip(fixed.contiguous(), moving.contiguous(), strict=True):
        forces = by(f, m, mask)
        # (a + b)(a + b)' - (a - b)(a - b)' of the slopes a and b of the two images is twice ab' + ba'.
        against = replace(forces, moving_scale=-forces.moving_scale)
        curvature += images.curvature(f, m, forces) - images.curvature(f, m, against)
        likeness = local_correlation(f, m, mask, radius=RADIUS, noise=NOISE)
        unlike += (1.0 - (likeness if signed else likeness.abs())) * mask
    unlike, seen = adjoint(torch.stack([unlike / len(fixed), mask]), samples)
    known = seen > LEAST_SEEN * float(np.prod(samples))
    noise = 2.0 * around((unlike / seen.clamp_min(1e-12)).clamp(0.0, 1.0), known).clamp_min(LEAST_NOISE / 2)
    texture = positive(torch.stack([around(part, torch.ones_like(known)) for part in curvature / len(fixed)]))
    return texture, noise, known


def around(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """(z, y, x) mean over the known ones of each point and its 26 neighbours; 0 where there are none."""
    weight = known.to(values.dtype)
    total, count = (torch.nn.functional.avg_pool3d(v[None, None], 3, 1, 1)[0, 0] for v in (values * weight, weight))
    return total / count.clamp_min(1e-6)


def positive(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest positive semidefinite matrices, (6, z, y, x) in the order of PAIRS, of symmetric ones."""
    a, b, c, d, e, f = matrix.double().cpu()
    whole = torch.stack([a, d, e, d, b, f, e, f, c], -1).unflatten(-1, (3, 3))
    values, vectors = torch.linalg.eigh(whole)  # thousands of small ones, for which a GPU is no faster
    whole = (vectors * values.clamp_min(0.0)[..., None, :]) @ vectors.transpose(-1, -2)
    return torch.stack([whole[..., i, j] for i, j in PAIRS]).to(matrix)
