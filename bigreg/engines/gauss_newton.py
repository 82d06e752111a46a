"""A pair of images moved apart symmetrically by a spline: its forces and Gauss-Newton curvature on the lattice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..kernels import usable
from ..similarity import Forces, Similarity, mse
from ..transforms.bspline import adjoint, evaluate, taps
from ..transforms.field import identity, sample

if TYPE_CHECKING:
    from .midspace_cuda import Pulls

HALF = 8
"""Voxels along the edge of a cube of a half. Neighbouring voxels share noise, as all that was interpolated does, so
that halves of smaller cubes know more of each other's; what moves within a larger cube the other half cannot foretell.
"""


def gradient(image: torch.Tensor) -> torch.Tensor:
    """(3, z, y, x) central differences of an image (z, y, x) per voxel; one-sided at the border."""
    out = torch.zeros(3, *image.shape, dtype=image.dtype, device=image.device)
    for axis, (n, slope) in enumerate(zip(image.shape, out, strict=True)):
        if n == 1:
            continue
        torch.sub(image.narrow(axis, 2, n - 2), image.narrow(axis, 0, n - 2), out=slope.narrow(axis, 1, n - 2)).mul_(
            0.5
        )
        for end, inner, sign in ((0, 1, -1.0), (n - 1, n - 2, 1.0)):
            torch.sub(image.select(axis, end), image.select(axis, inner), out=slope.select(axis, end)).mul_(sign)
    return out


def texture_confidence(matrix: torch.Tensor, samples: Sequence[int], regularisation: float) -> torch.Tensor:
    """(z, y, x) 0 .. 1: how much the curvature (6, z, y, x) of a Pull says, against a membrane of that stiffness."""
    cell = float(np.prod(samples))
    texture = matrix[:3].sum(0) / (3 * cell)
    return texture / (texture + regularisation / cell ** (2 / 3))


@dataclass(frozen=True)
class Pull:
    """How a loss changes with the control points of v, where fixed is seen at x + v(x) and moving at x - v(x).

    mean, weight   mean dissimilarity over voxels and channels, and the number of voxels
    slope          (3, z, y, x) d loss / d control point, control points in voxels
    matrix         (6, z, y, x) sum_x B_a(x) j j^T, in the order of PAIRS; None where it was not asked for
    """

    mean: float
    weight: float
    slope: torch.Tensor
    matrix: torch.Tensor | None


def sum_of(first: Pull, second: Pull) -> Pull:
    """The pull of both halves; see MidSpacePair.halves."""
    assert first.matrix is not None and second.matrix is not None, "halves have curvatures"
    return replace(first, slope=first.slope + second.slope, matrix=first.matrix + second.matrix)


class MidSpacePair:
    """Two images (C, z, y, x) with their masks (z, y, x) on one patch; `samples` voxels a lattice cell.

    The loss is the mean over the channels. On a CPU in float32 the sweeps of `midspace_cpu` do the work; elsewhere
    tensor operations, with the same result.
    """

    def __init__(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        fixed_mask: torch.Tensor,
        moving_mask: torch.Tensor,
        similarity: Similarity,
        samples: Sequence[int],
    ) -> None:
        self.images = (fixed, moving)
        self.masks = (fixed_mask, moving_mask)
        self.whole = bool((fixed_mask > 0).all()) and bool((moving_mask > 0).all())
        self.similarity = similarity
        self.samples = tuple(int(s) for s in samples)
        self.points = tuple(n // s + 4 for n, s in zip(fixed.shape[1:], self.samples, strict=True))
        self.sweeps = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (fixed, moving))
        if self.sweeps or usable(*self.images):
            self.images = fixed.contiguous(), moving.contiguous()
            self.masks = fixed_mask.to(torch.float32).contiguous(), moving_mask.to(torch.float32).contiguous()

    def __call__(self, coefficients: torch.Tensor | None, *, curvature: bool) -> Pull:
        """The pull on control points (3, z, y, x) in voxels; None is all zero."""
        fixed, moving, mask = self.warped(coefficients)
        channels = len(fixed)
        slope = torch.zeros(3, *self.points, dtype=fixed.dtype, device=fixed.device)
        matrix = torch.zeros(6, *self.points, dtype=fixed.dtype, device=fixed.device) if curvature else None
        if self.sweeps and self.similarity.forces is mse:
            loss, weight = self._pull_mse(fixed, moving, mask, slope, matrix), float(mask.sum(dtype=torch.float64))
        else:
            loss, pulls = 0.0, self._kernels(curvature)
            for f, m in zip(fixed, moving, strict=True):
                forces = self.similarity(f, m, mask)
                loss, weight = loss + forces.loss, forces.weight
                if pulls is not None:
                    pulls.add(f, m, forces.fixed, forces.moving, forces.fixed_scale, forces.moving_scale)
                    continue
                (self._pull_by_sweep if self.sweeps else self._pull_by_tensors)(f, m, forces, slope, matrix)
            if pulls is not None:
                slope, matrix = pulls.pulled()
        slope /= channels
        if matrix is not None:
            matrix /= channels
        return Pull(loss / channels / weight if weight else float("nan"), weight, slope, matrix)

    def halves(self, coefficients: torch.Tensor | None) -> tuple[Pull, Pull]:
        """The pull, curvature included, of every second cube of HALF voxels, and of those between; their sum is that of
        all. Each has the mean and the weight of the whole: the forces are those of windows that hold voxels of both."""
        fixed, moving, mask = self.warped(coefficients)
        z, y, x = (torch.arange(n, device=mask.device) // HALF for n in mask.shape)
        odd = ((z[:, None, None] + y[:, None] + x) % 2).to(mask)
        loss = weight = 0.0
        sums = [[torch.zeros(n, *self.points, dtype=mask.dtype, device=mask.device) for n in (3, 6)] for _ in range(2)]
        for f, m in zip(fixed.contiguous(), moving.contiguous(), strict=True):
            forces = self.similarity(f, m, mask)
            loss, weight = loss + forces.loss, forces.weight
            for half, (slope, matrix) in zip((odd, 1 - odd), sums, strict=True):
                names = ("fixed", "moving", "fixed_scale", "moving_scale")
                part = replace(forces, **{name: getattr(forces, name) * half for name in names})
                found = self.both(f, m, part)
                slope += found[0] / len(fixed)
                matrix += found[1] / len(fixed)
        mean = loss / len(fixed) / weight if weight else float("nan")
        return Pull(mean, weight, *sums[0]), Pull(mean, weight, *sums[1])

    def pulled(self, fixed: torch.Tensor, moving: torch.Tensor, forces: Forces) -> torch.Tensor:
        """(3, z, y, x) the slope that such forces on one channel (z, y, x) of the warped images have."""
        slope = torch.zeros(3, *self.points, dtype=fixed.dtype, device=fixed.device)
        (self._pull_by_sweep if self.sweeps else self._pull_by_tensors)(fixed, moving, forces, slope, None)
        return slope

    def curvature(self, fixed: torch.Tensor, moving: torch.Tensor, forces: Forces) -> torch.Tensor:
        """(6, z, y, x) the matrix that such forces on one channel (z, y, x) of the warped images have."""
        return self.both(fixed, moving, forces)[1]

    def both(self, fixed: torch.Tensor, moving: torch.Tensor, forces: Forces) -> tuple[torch.Tensor, torch.Tensor]:
        """The slope (3, z, y, x) and the matrix (6, z, y, x) that such forces have."""
        pulls = self._kernels(True)
        if pulls is not None:
            pulls.add(fixed, moving, forces.fixed, forces.moving, forces.fixed_scale, forces.moving_scale)
            slope, curvature = pulls.pulled()
            assert curvature is not None, "it was asked for"
            return slope, curvature
        slope, matrix = (torch.zeros(n, *self.points, dtype=fixed.dtype, device=fixed.device) for n in (3, 6))
        (self._pull_by_sweep if self.sweeps else self._pull_by_tensors)(fixed, moving, forces, slope, matrix)
        return slope, matrix

    def _kernels(self, curvature: bool) -> Pulls | None:
        """What gathers the channels' forces on a GPU that has Triton."""
        if not usable(*self.images, *self.masks):
            return None
        from .midspace_cuda import Pulls

        return Pulls(self.samples, curvature=curvature)

    def warped(self, coefficients: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(fixed at x + v, moving at x - v, mask of both)."""
        if coefficients is None:
            return *self.images, self.masks[0] * self.masks[1]
        return self._warped_by_sweep(coefficients) if self.sweeps else self._warped_by_tensors(coefficients)

    def _warped_by_tensors(self, coefficients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if usable(coefficients, *self.images, *self.masks):
            from .midspace_cuda import warp

            return warp(coefficients, self.samples, self.images, self.masks, self.whole)
        velocity = evaluate(coefficients, self.samples)
        shape = self.images[0].shape[1:]
        like: dict[str, Any] = {"dtype": velocity.dtype, "device": velocity.device}
        index = identity(shape, **like)
        edge = torch.tensor([n - 1 for n in shape], **like).reshape(3, 1, 1, 1)
        images: list[torch.Tensor] = []
        mask: torch.Tensor | None = None
        for image, own, place in zip(self.images, self.masks, (index + velocity, index - velocity), strict=True):
            inside = ((place >= 0) & (place <= edge)).all(0).to(image.dtype)
            images.append(sample(image, place))
            if not self.whole:
                inside = inside * (sample(own[None].to(image.dtype), place)[0] > 0.99).to(image.dtype)
            mask = inside if mask is None else mask * inside
        assert mask is not None
        return images[0], images[1], mask

    def _pull_by_tensors(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        forces: Forces,
        slope: torch.Tensor,
        matrix: torch.Tensor | None,
    ) -> None:
        slope_f, slope_m = gradient(fixed), gradient(moving)
        slope += adjoint(slope_f * forces.fixed - slope_m * forces.moving, self.samples)
        if matrix is not None:
            arm = slope_f * forces.fixed_scale + slope_m * forces.moving_scale
            matrix += adjoint(torch.stack([arm[i] * arm[j] for i, j in PAIRS]), self.samples)

    def _warped_by_sweep(self, coefficients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        from .midspace_cpu import warp

        fixed, moving = self.images
        out = torch.empty_like(fixed), torch.empty_like(moving), torch.empty_like(self.masks[0])
        images, masks = (tuple(t.numpy() for t in pair) for pair in (self.images, self.masks))
        warp(
            coefficients.contiguous().numpy(), *_taps(self.samples), *images, *masks, self.whole,
            *(t.numpy() for t in out),
        )  # fmt: skip
        return out

    def _pull_by_sweep(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        forces: Forces,
        slope: torch.Tensor,
        matrix: torch.Tensor | None,
    ) -> None:
        from .midspace_cpu import pull

        pulls = (forces.fixed, forces.moving, forces.fixed_scale, forces.moving_scale)
        pull(
            fixed.numpy(), moving.numpy(), *(t.expand_as(fixed).contiguous().numpy() for t in pulls),
            *_taps(self.samples), slope.numpy(), _NOTHING if matrix is None else matrix.numpy(),
        )  # fmt: skip

    def _pull_mse(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        mask: torch.Tensor,
        slope: torch.Tensor,
        matrix: torch.Tensor | None,
    ) -> float:
        """All channels of a squared difference at once: their forces are summed before they are pulled back."""
        from .midspace_cpu import pull_mse

        return pull_mse(
            fixed.numpy(), moving.numpy(), mask.numpy(), *_taps(self.samples),
            slope.numpy(), _NOTHING if matrix is None else matrix.numpy(),
        )  # fmt: skip


_NOTHING = np.zeros((0, 0, 0, 0), np.float32)


@lru_cache(maxsize=16)
def _taps(samples: tuple[int, int, int]) -> list[np.ndarray]:
    return [array for s in samples for array in taps(s)]


PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def solve3(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """x of M x = r for symmetric positive definite 3 x 3 systems given as (6, ...) and (3, ...), in closed form."""
    size = matrix[:3].amax(0)  # a determinant is its cube: without it 10^13 would be beyond float32
    a, b, c, d, e, f = matrix / size  # [[a, d, e], [d, b, f], [e, f, c]]
    c00, c01, c02 = b * c - f * f, e * f - d * c, d * f - e * b
    c11, c12, c22 = a * c - e * e, d * e - a * f, a * b - d * d
    determinant = a * c00 + d * c01 + e * c02
    determinant = determinant * size
    x, y, z = right
    return (
        torch.stack([c00 * x + c01 * y + c02 * z, c01 * x + c11 * y + c12 * z, c02 * x + c12 * y + c22 * z])
        / determinant
    )
