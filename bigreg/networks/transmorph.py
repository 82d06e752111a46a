"""A U-Net whose encoder attends within shifted windows, with a stationary velocity (after Chen et al., TransMorph).

One convolution halves the patch; each further level halves it again and has pairs of attention blocks, the second of
them in shifted windows. The decoder and what becomes of the velocity are those of `voxelmorph`. Far smaller than the
original: what is left to find on a level of the ladder is small. Normalisation is of the channels of a voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .attention import AttentionBlock
from .base import Network, Prediction, awake, channels_last, quiet
from .correlation import NEIGHBOURS, correlations, local_contrast
from .voxelmorph import maps_of


class TransMorph(Network):
    """See the module.

    stem        channels at half the resolution, before any attention
    encoder     channels of the levels with attention, finest (a quarter of the resolution) first
    head        channels of a head of attention; widths of the encoder are multiples
    depth       attention blocks a level, even: every second one is shifted
    window      edge of a window in voxels of its level, even
    last        channels of the two convolutions before the velocity
    squarings   of the exponentials
    correlation   encoder and decoder also see, from half the resolution on, the correlation of both images over 27
                  neighbours
    """

    architecture: ClassVar[str] = "transmorph"
    antisymmetric: ClassVar[bool] = False

    def __init__(
        self,
        *,
        stem: int = 16,
        encoder: Sequence[int] = (48, 96),
        head: int = 16,
        depth: int = 2,
        window: int = 4,
        last: int = 16,
        squarings: int = 7,
        correlation: bool = False,
    ) -> None:
        super().__init__()
        encoder = [int(n) for n in encoder]
        if not encoder or min(*encoder, stem, head, last) < 1 or squarings < 0:
            raise ValueError(f"stem {stem}, encoder {encoder}, head {head} and last {last} must be at least 1")
        if any(n % head for n in encoder):
            raise ValueError(f"encoder {encoder} must be multiples of the {head} channels of a head")
        if depth < 2 or depth % 2 or window < 2 or window % 2:
            raise ValueError(f"depth {depth} and window {window} must be even and at least 2")
        self.settings = {
            "stem": stem, "encoder": encoder, "head": head, "depth": depth, "window": window, "last": last,
            "squarings": squarings, "correlation": correlation,
        }  # fmt: skip
        self.correlation, self.squarings = correlation, squarings
        self.factor, self.reach = 2 ** (len(encoder) + 1), float("inf")
        more = NEIGHBOURS * correlation
        # As in VoxelMorph four taps, centred on the coarser voxel.
        self.stem = nn.Conv3d(2, stem, 4, stride=2, padding=1)
        widths = [stem, *encoder]
        self.down = nn.ModuleList([nn.Conv3d(a + more, b, 2, stride=2) for a, b in zip(widths, encoder, strict=False)])
        self.decoder = nn.ModuleList(
            [nn.Conv3d(a + b + more, b, 3, padding=1) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)]
        )
        self.last = nn.ModuleList([nn.Conv3d(a, last, 3, padding=1) for a in (stem, last)])
        awake(self)
        self.levels = nn.ModuleList(
            [
                nn.Sequential(*(AttentionBlock(n, n // head, window, shifted=bool(k % 2)) for k in range(depth)))
                for n in encoder
            ]
        )
        self.flow = quiet(nn.Conv3d(last, 3, 3, padding=1))

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> Prediction:
        self.check(fixed, moving)
        images = local_contrast(fixed, 3), local_contrast(moving, 3)
        more = correlations(*images, len(self.down)) if self.correlation else []
        (x,) = channels_last(torch.cat(images, 1))
        features = [self._seen(F.leaky_relu(self.stem(x), 0.2, inplace=True), more, 0)]
        for number, (down, level) in enumerate(zip(self.down, self.levels, strict=True), 1):
            x = level(down(features[-1]).movedim(1, -1)).movedim(-1, 1)
            features.append(self._seen(x, more, number))
        x = features[-1]
        for layer, feature in zip(self.decoder, features[-2::-1], strict=True):
            x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), feature], 1)
            x = F.leaky_relu(layer(x), 0.2, inplace=True)
        for layer in self.last:
            x = F.leaky_relu(layer(x), 0.2, inplace=True)
        return maps_of(self.flow(x), self.squarings)

    @staticmethod
    def _seen(x: torch.Tensor, more: list[torch.Tensor], level: int) -> torch.Tensor:
        """Features and the correlations of their level; the coarsest has none."""
        return torch.cat([x, more[level]], 1) if level < len(more) else x
