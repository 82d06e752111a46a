"""How far a velocity may be off: the SD of its control points, in closed form from the images where they end up.

Two images of one thing with noise of their own, moved against each other, are least alike in squares: their Gauss-Newton
matrix and the variance of the noise give the covariance of the motion, noise x (curvature + membrane)^-1. Curvature and
noise are those of the local correlation of both images under the velocity, whatever it was found by: of images that
correlate by r the noise is 1 - r of the variance, and r of it is what they share. A control point's own 3 x 3 block
stands for the whole system: on a lattice of three axes a point's variance is hardly larger for its neighbours' being
uncertain (RESULTS.md). One factor a similarity makes it the error that was measured, see tests/benchmarks/sigma.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..similarity import by_name, local_correlation
from ..transforms.bspline import adjoint
from .base import PatchPair
from .gauss_newton import MidSpacePair
from .membrane import own_inverses

RADIUS, NOISE = 3, 0.02  # of the local correlation: what the factors were measured with
ONE_CONTRAST = ("lncc", "ncc", "mse")
FACTORS = {
    "lncc": 1.1, "lncc_squared": 1.6, "ncc": 1.1, "mse": 1.1, "mi": 1.7, "nmi": 1.7, "mind": 2.0, "ngf": 1.9,
}  # fmt: skip
"""SD of the error that was measured over that of the closed form, by what a velocity is found by."""
LEAST_ALIKE = 0.02  # a correlation below this is none
LEAST_SEEN = 1e-3  # of a control point's voxels that both images show, below which nothing is known of it


def velocity_sigma(
    pair: PatchPair, c: torch.Tensor, similarity: str, samples: Sequence[int], stiffness: torch.Tensor
) -> torch.Tensor:
    """(3, z, y, x) SD of the control points c (3, z, y, x) along each axis, both in voxels; NaN where nothing is known.

    similarity   what they were found by, one of FACTORS
    stiffness    (3 components, 3 axes) of a lattice edge, in units of the loss
    """
    signed = similarity in ONE_CONTRAST
    by = by_name("lncc" if signed else "lncc_squared", radius=RADIUS, noise=NOISE)
    images = MidSpacePair(pair.fixed, pair.moving, pair.fixed_mask, pair.moving_mask, by, samples)
    matrix = images(c, curvature=True).matrix
    assert matrix is not None, "it was asked for"
    cell = float(torch.tensor(samples).prod())
    matrix[:3] += 1e-6 * cell
    fixed, moving, mask = images.warped(c)
    found = [
        local_correlation(f.contiguous(), m.contiguous(), mask, radius=RADIUS, noise=NOISE)
        for f, m in zip(fixed, moving, strict=True)
    ]
    likeness = torch.stack([r if signed else r.abs() for r in found]).mean(0)
    total, seen = adjoint(torch.stack([likeness * mask, mask.to(likeness.dtype)]), samples)
    alike = (total / seen.clamp_min(LEAST_SEEN * cell)).clamp(LEAST_ALIKE, 1.0)
    # The squared correlation has the factor r, by which the signed one's noise is larger, in its curvature.
    noise = 2.0 * (1.0 - alike) / (alike if signed else 1.0)
    inverses = own_inverses(matrix, stiffness)
    variance = torch.stack([inverses[axis, axis] for axis in range(3)]) * noise
    sigma = FACTORS[similarity] * variance.clamp_min(0.0).sqrt()
    return torch.where(seen > LEAST_SEEN * cell, sigma, torch.nan)
