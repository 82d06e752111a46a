"""One network for a range of stiffnesses: its normalisations know the weight of the regularisation.

A small network turns the logarithm of the weight into a code, and each normalisation turns the code into a change of
its channels' gain and offset (after HyperMorph, Hoopes et al. 2021, by the means of FiLM, Perez et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

WIDTH = 16
"""Channels of the code."""


def checked_range(regularisation: Sequence[float] | None) -> tuple[float, float] | None:
    """The range of weights, or None. Raises ValueError where it is none."""
    if regularisation is None:
        return None
    low, high = (float(v) for v in regularisation)
    if not 0 < low < high < math.inf:
        raise ValueError(f"regularisation {[low, high]} must be a smallest and a larger weight, both above 0")
    return low, high


class Condition(nn.Module):
    """Weights (N,) within `bounds` to codes (N, WIDTH)."""

    def __init__(self, bounds: tuple[float, float]) -> None:
        super().__init__()
        self.bounds = bounds
        first, second = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.Tanh())
        # By torch's own weights the code is small and hardly differs over the range, and little is learned from it.
        nn.init.normal_(first.weight, std=2.0)
        nn.init.normal_(second.weight, std=math.sqrt(2.0 / WIDTH))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        low, high = (math.log(b) for b in self.bounds)
        place = (2.0 * weight.log() - low - high) / (high - low)  # -1 .. 1
        return self.layers(place[:, None])

    @property
    def middle(self) -> float:
        """The geometric mean of the bounds."""
        return math.sqrt(self.bounds[0] * self.bounds[1])


class Modulation(nn.Module):
    """Channels of features (N, z, y, x, C) times a gain and plus an offset that follow from codes (N, WIDTH)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 2 * channels)
        # At first all weights are almost one; not quite, so that the code learns from the first step.
        nn.init.normal_(self.layer.weight, std=0.02)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        gain, offset = self.layer(code)[:, None, None, None].chunk(2, -1)
        return torch.addcmul(offset.to(x.dtype), x, (1.0 + gain).to(x.dtype))
