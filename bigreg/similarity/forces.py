"""What every similarity returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Forces:
    """A loss and its first- and second-order behaviour when both images move.

    loss             sum over the mask of the dissimilarity (0 where the images match)
    weight           number of voxels in that sum
    fixed, moving    (z, y, x) derivative of `loss` by each image's voxels
    fixed_scale,     (z, y, x) or 0-d: a and b such that the Gauss-Newton curvature of the loss, when the fixed image
    moving_scale     moves by v and the moving one by -v, is j j^T per voxel with j = a grad(fixed) + b grad(moving)
    """

    loss: float
    weight: float
    fixed: torch.Tensor
    moving: torch.Tensor
    fixed_scale: torch.Tensor
    moving_scale: torch.Tensor

    @property
    def mean(self) -> float:
        """Mean dissimilarity over the mask; NaN where the mask is empty."""
        return self.loss / self.weight if self.weight else float("nan")
