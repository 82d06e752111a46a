"""A U-Net with a stationary velocity, the baseline that everybody knows (after Balakrishnan et al. and Dalca et al.).

The velocity v is predicted at half the resolution; the halves are exp(v) and exp(-v), the whole maps exp(-2 v) and
exp(2 v). There are no normalisation layers, so nothing depends on the patch as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .base import Network, Prediction, awake, channels_last, quiet
from .correlation import NEIGHBOURS, correlations, local_contrast
from .maps import exponential, finer


class VoxelMorph(Network):
    """See the module.

    encoder     channels after each halving of the resolution, finest first
    decoder     channels of the levels from the coarsest up to half the resolution, one fewer than of the encoder
    last        channels of the two convolutions before the velocity
    squarings   of the exponentials
    correlation   encoder and decoder also see, from half the resolution on, the correlation of both images over 27
                  neighbours
    """

    architecture: ClassVar[str] = "voxelmorph"
    antisymmetric: ClassVar[bool] = False

    def __init__(
        self,
        *,
        encoder: Sequence[int] = (16, 32, 32, 32),
        decoder: Sequence[int] = (32, 32, 32),
        last: int = 16,
        squarings: int = 7,
        correlation: bool = False,
    ) -> None:
        super().__init__()
        encoder, decoder = [int(n) for n in encoder], [int(n) for n in decoder]
        if not encoder or len(decoder) != len(encoder) - 1:
            raise ValueError(f"decoder {decoder} must have one width fewer than encoder {encoder}")
        if min(*encoder, *decoder, last) < 1 or squarings < 0:
            raise ValueError(f"encoder {encoder}, decoder {decoder} and last {last} must be at least 1")
        self.settings = {
            "encoder": encoder, "decoder": decoder, "last": last, "squarings": squarings, "correlation": correlation,
        }  # fmt: skip
        self.correlation = correlation
        self.factor, self.reach, self.squarings = 2 ** len(encoder), float("inf"), squarings
        self.encoder = nn.ModuleList(
            # Four taps are centred on the coarser voxel, as an even number must be; three would lie half a voxel off.
            [
                nn.Conv3d(a + NEIGHBOURS * (correlation and k > 0), b, 4, stride=2, padding=1)
                for k, (a, b) in enumerate(zip([2, *encoder], encoder, strict=False))
            ]
        )
        widths = [encoder[-1], *decoder]
        self.decoder = nn.ModuleList(
            [
                nn.Conv3d(a + s + NEIGHBOURS * correlation, b, 3, padding=1)
                for a, s, b in zip(widths, encoder[-2::-1], decoder, strict=False)
            ]
        )
        self.last = nn.ModuleList([nn.Conv3d(a, last, 3, padding=1) for a in (widths[-1], last)])
        awake(self)
        self.flow = quiet(nn.Conv3d(last, 3, 3, padding=1))

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> Prediction:
        self.check(fixed, moving)
        images = local_contrast(fixed, 3), local_contrast(moving, 3)
        (x,) = channels_last(torch.cat(images, 1))
        more = correlations(*images, len(self.encoder) - 1) if self.correlation else []
        features = []
        for number, layer in enumerate(self.encoder):
            x = F.leaky_relu(layer(x), 0.2, inplace=True)
            if number < len(more):
                x = torch.cat([x, more[number]], 1)
            features.append(x)
        for layer, feature in zip(self.decoder, features[-2::-1], strict=True):
            x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), feature], 1)
            x = F.leaky_relu(layer(x), 0.2, inplace=True)
        for layer in self.last:
            x = F.leaky_relu(layer(x), 0.2, inplace=True)
        return maps_of(self.flow(x), self.squarings)


def maps_of(velocity: torch.Tensor, squarings: int) -> Prediction:
    """The maps of a half-way velocity (N, 3, z, y, x), voxels, at half the resolution of the patch."""
    velocity = velocity.to(torch.promote_types(velocity.dtype, torch.float32))
    both = torch.cat([velocity, -velocity])
    halves = exponential(both, squarings)
    # exp(2 v) is exp(v) after itself, but its own series is more accurate and costs the same.
    wholes = exponential(-2.0 * both, squarings)
    maps = finer(torch.cat([halves, wholes])).chunk(4)
    return Prediction(*maps)
