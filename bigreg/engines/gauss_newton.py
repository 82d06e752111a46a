"""Symmetric image forces in mid-space and their Gauss-Newton curvature, shared by the engines that optimise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..similarity import Forces, Similarity
from ..transforms.field import identity, sample


def gradient(image: torch.Tensor) -> torch.Tensor:
    """(3, z, y, x) central differences of an image (z, y, x) per voxel; one-sided at the border."""
    return torch.stack(
        [torch.gradient(image, dim=a)[0] if image.shape[a] > 1 else torch.zeros_like(image) for a in range(3)]
    )


@dataclass(frozen=True)
class Symmetric:
    """Both images at x + v(x) and x - v(x): `force` (3, z, y, x) is d loss / d v, `arm` (3, z, y, x) is j of j j^T."""

    forces: Forces
    force: torch.Tensor
    arm: torch.Tensor | None


class MidSpacePair:
    """A pair of images (z, y, x) that are moved apart symmetrically; remembers what does not change between calls."""

    def __init__(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        fixed_mask: torch.Tensor,
        moving_mask: torch.Tensor,
        similarity: Similarity,
    ) -> None:
        self.fixed, self.moving = fixed, moving
        self.masks = (fixed_mask, moving_mask)
        self.whole = bool((fixed_mask > 0).all()) and bool((moving_mask > 0).all())
        self.similarity = similarity
        self.index = identity(fixed.shape, dtype=fixed.dtype, device=fixed.device)
        self.edge = torch.tensor([n - 1 for n in fixed.shape], dtype=fixed.dtype, device=fixed.device).reshape(
            3, 1, 1, 1
        )

    def warped(self, velocity: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(fixed at x + v, moving at x - v, mask of both); v (3, z, y, x) in voxels."""
        if velocity is None:
            return self.fixed, self.moving, self.masks[0] * self.masks[1]
        images, mask = [], None
        for image, own, place in (
            (self.fixed, self.masks[0], self.index + velocity),
            (self.moving, self.masks[1], self.index - velocity),
        ):
            inside = ((place >= 0) & (place <= self.edge)).all(0).to(image.dtype)
            if self.whole:
                images.append(sample(image[None], place)[0])
            else:
                both = sample(torch.stack([image, own]), place)
                images.append(both[0])
                inside = inside * (both[1] > 0.99).to(image.dtype)
            mask = inside if mask is None else mask * inside
        return images[0], images[1], mask

    def __call__(self, velocity: torch.Tensor | None, *, curvature: bool) -> Symmetric:
        fixed, moving, mask = self.warped(velocity)
        forces = self.similarity(fixed, moving, mask)
        slope_f, slope_m = gradient(fixed), gradient(moving)
        force = slope_f * forces.fixed - slope_m * forces.moving
        arm = slope_f * forces.fixed_scale + slope_m * forces.moving_scale if curvature else None
        return Symmetric(forces, force, arm)


PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def outer(arm: torch.Tensor) -> torch.Tensor:
    """(6, ...) distinct elements of j j^T in the order of PAIRS."""
    return torch.stack([arm[i] * arm[j] for i, j in PAIRS])


def solve3(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """x of M x = r for symmetric positive definite 3 x 3 systems given as (6, ...) and (3, ...), in closed form."""
    a, b, c, d, e, f = matrix  # [[a, d, e], [d, b, f], [e, f, c]]
    c00, c01, c02 = b * c - f * f, e * f - d * c, d * f - e * b
    c11, c12, c22 = a * c - e * e, d * e - a * f, a * b - d * d
    determinant = a * c00 + d * c01 + e * c02
    x, y, z = right
    return (
        torch.stack([c00 * x + c01 * y + c02 * z, c01 * x + c11 * y + c12 * z, c02 * x + c12 * y + c22 * z])
        / determinant
    )
