"""InvGAN's generator: one encoder, two decoders, the flow there and the flow back (Nazib et al., arXiv 2501.18815).

The decoders differ in a sign: one adds the encoder's features at each level, the other subtracts them. There are no
normalisation layers, so nothing depends on the patch as a whole. Of the two flows the half-way velocity is
v = (back - there) / 4: with F o exp(v) = M o exp(-v) the flow from fixed to moving is -2 v, the other one 2 v.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .base import Network, Prediction, awake, channels_last, quiet
from .correlation import NEIGHBOURS, correlations, local_contrast

LEVELS = 4


class InvGAN(Network):
    """See the module.

    width, last   channels of encoder and decoders, and before the flow
    correlation   the encoder also sees, from its second layer on, the correlation of both images over 27 neighbours
                  (not of the paper: learns in a hundredth of the steps)
    """

    architecture: ClassVar[str] = "invgan"
    antisymmetric: ClassVar[bool] = False

    def __init__(self, *, width: int = 32, last: int = 8, correlation: bool = False) -> None:
        super().__init__()
        if min(width, last) < 1:
            raise ValueError(f"width {width} and last {last} must be at least 1")
        self.settings = {"width": width, "last": last, "correlation": correlation}
        self.factor, self.reach = 2**LEVELS, float("inf")
        self.correlation = correlation
        seen = width + NEIGHBOURS * correlation
        self.encoder = nn.ModuleList([nn.Conv3d(seen if k else 2, width, 2, stride=2) for k in range(LEVELS)])
        awake(self)
        self.there = Decoder(width, last, 1.0)
        self.back = Decoder(width, last, -1.0)

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> Prediction:
        self.check(fixed, moving)
        images = local_contrast(fixed, 3), local_contrast(moving, 3)
        (x,) = channels_last(torch.cat(images, 1))
        more = correlations(*images, LEVELS - 1) if self.correlation else []
        features = []
        for number, layer in enumerate(self.encoder):
            seen = torch.cat([x, more[number - 1]], 1) if more and number else x
            x = F.leaky_relu(layer(seen), 0.2, inplace=True)
            features.append(x)
        there, back = self.there(features), self.back(features)
        half = (back - there) * 0.25
        return Prediction(half, -half, there, back)


class Decoder(nn.Module):
    """Features of all levels, finest first, to a flow (N, 3, z, y, x) in voxels."""

    def __init__(self, width: int, last: int, sign: float) -> None:
        super().__init__()
        self.sign = sign
        self.first = nn.Conv3d(width, width, 3, padding=1)
        self.up = nn.ModuleList([nn.ConvTranspose3d(2 * width, width, 2, stride=2) for _ in range(LEVELS)])
        self.convs = nn.ModuleList([nn.Conv3d(width, width, 3, padding=1) for _ in range(LEVELS - 1)])
        self.narrow = nn.Conv3d(width, last, 3, padding=1)
        awake(self)
        self.flow = quiet(nn.Conv3d(last, 3, 3, padding=1))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        levels = features[::-1]
        x = F.leaky_relu(self.first(levels[0]), 0.2, inplace=True) + self.sign * levels[0]
        x = torch.cat([x, levels[0]], 1)
        for up, conv, feature in zip(self.up, self.convs, levels[1:], strict=False):
            x = F.leaky_relu(conv(F.leaky_relu(up(x), 0.2, inplace=True)), 0.2, inplace=True) + self.sign * feature
            x = torch.cat([x, feature], 1)
        x = F.leaky_relu(self.narrow(F.leaky_relu(self.up[-1](x), 0.2, inplace=True)), 0.2, inplace=True)
        flow = self.flow(x)
        return flow.to(torch.promote_types(flow.dtype, torch.float32))
