"""A batch as a network's maps bring it together; each warped image is made once, whichever losses look at it."""

from __future__ import annotations

from functools import cached_property

import torch

from ..networks import Prediction
from ..networks.maps import warp
from .batch import Batch


def grid_positions(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """(3, z, y, x) index positions of a patch."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


@torch.no_grad()
def seen(mask: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Where a map (N, 3, ...) lands inside the patch and on data: (N, 1, z, y, x) of 0 and 1."""
    shape = displacement.shape[2:]
    place = grid_positions(shape, displacement) + displacement
    inside = torch.ones_like(mask[:, 0], dtype=torch.bool)
    for axis, n in enumerate(shape):
        inside &= (place[:, axis] >= 0) & (place[:, axis] <= n - 1)
    return ((warp(mask, displacement)[:, 0] > 0.999) & inside)[:, None].to(mask.dtype)


class Scene:
    """A batch and a prediction of its maps.

    alone   maps of each fixed image with itself, and then of each moving one, (2 N, ...); None: nobody asked for them
    """

    def __init__(self, batch: Batch, prediction: Prediction, alone: Prediction | None = None) -> None:
        self.batch, self.maps, self.alone = batch, prediction, alone

    @cached_property
    def moving_on_fixed(self) -> torch.Tensor:
        """The moving images in the fixed frame, (N, 1, z, y, x)."""
        return warp(self.batch.moving, self.maps.fixed_to_moving)

    @cached_property
    def fixed_on_moving(self) -> torch.Tensor:
        return warp(self.batch.fixed, self.maps.moving_to_fixed)

    @cached_property
    def at_fixed(self) -> torch.Tensor:
        """Where both images have data in the fixed frame, (N, 1, z, y, x) of 0 and 1."""
        return self.batch.fixed_mask * seen(self.batch.moving_mask, self.maps.fixed_to_moving)

    @cached_property
    def at_moving(self) -> torch.Tensor:
        return self.batch.moving_mask * seen(self.batch.fixed_mask, self.maps.moving_to_fixed)

    @cached_property
    def middle(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Both images and where both have data in mid-space, (N, 1, z, y, x) each."""
        b, m = self.batch, self.maps
        both = seen(b.fixed_mask, m.to_fixed) * seen(b.moving_mask, m.to_moving)
        return warp(b.fixed, m.to_fixed), warp(b.moving, m.to_moving), both
