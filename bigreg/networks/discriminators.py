"""Discriminators of the adversarial losses. They return LOGITS: the loss is binary cross-entropy with logits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from .base import channels_last


class Discriminator(nn.Module):
    """Halving convolutions to one channel, whose mean over what is left of the patch is the logit (N,)."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.settings = {"widths": [int(n) for n in widths]}
        widths = [channels, *self.settings["widths"], 1]
        self.layers = nn.ModuleList([nn.Conv3d(a, b, 2, stride=2) for a, b in pairwise(widths)])
        self.factor = 2 ** len(self.layers)

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        if any(n % self.factor for n in patch.shape[2:]):
            raise ValueError(
                f"patch {tuple(patch.shape[2:])} must be of multiples of {self.factor} voxels for the discriminator"
            )
        (x,) = channels_last(patch)
        for number, layer in enumerate(self.layers):
            x = layer(F.leaky_relu(x, 0.2) if number else x)
        return x.mean((1, 2, 3, 4))


class PairDiscriminator(Discriminator):
    """Judges two images (N, 2, z, y, x): do they show the same? By default six layers as in the author's code."""

    def __init__(self, widths: Sequence[int] = (2, 8, 16, 32, 64)) -> None:
        super().__init__(2, widths)


class FlowDiscriminator(Discriminator):
    """Judges a displacement (N, 3, z, y, x), voxels: is it a smooth diffeomorphism?"""

    def __init__(self, widths: Sequence[int] = (8, 16, 32, 64)) -> None:
        super().__init__(3, widths)
