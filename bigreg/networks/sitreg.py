"""SITReg: symmetric, inverse consistent and topology preserving by construction (Honkamaa, Marttinen, 2303.10211).

Both images go through one encoder. From the coarsest level on, the features are brought to mid-space by the maps found
so far, a = z1 o d1 and b = z2 o d2, and one small network, asked in both orders, gives two bounded splines:

    U12 = u(a - b, a + b)      U21 = u(b - a, a + b)      delta = U12 o U21^-1
    d1 <- d1 o delta           d2 <- d2 o delta^-1        e1 <- delta^-1 o e1      e2 <- delta o e2

so exchanging the images exchanges the maps whatever the weights are, and every factor is invertible. e1, e2 are the
inverses of d1, d2. What differs from the paper: normalisation is of the channels of a voxel, never over the patch; and
it may take how stiff the map is to be (see conditioning).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .base import Network, Prediction, awake, channels_last, quiet
from .conditioning import Condition, Modulation, checked_range
from .correlation import NEIGHBOURS, local_contrast, local_correlation
from .inverse import invert
from .maps import compose, finer, warp
from .spline import BOUND, bounded


class SITReg(Network):
    """See the module.

    encoder         channels of the levels, finest first; their number is the number of levels
    update          hidden channels of the levels' update networks
    convs           3^3 convolutions a level of the encoder and of the update
    finest          level (0 = the patch's own resolution) of the last update; its map is interpolated to the patch
    correlation     the update also sees the correlation of a and b over the 27 neighbours of a voxel
    tolerance       voxels to which the inverses are iterated
    regularisation  smallest and largest weight of the regularisation that the network takes; None: it takes none
    """

    architecture: ClassVar[str] = "sitreg"
    antisymmetric: ClassVar[bool] = True

    def __init__(
        self,
        *,
        encoder: Sequence[int] = (8, 24, 32, 32),
        update: Sequence[int] = (12, 24, 32, 32),
        convs: int = 2,
        finest: int = 0,
        correlation: bool = False,
        tolerance: float = 1e-2,
        regularisation: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        encoder, update = [int(n) for n in encoder], [int(n) for n in update]
        if not encoder or len(encoder) != len(update):
            raise ValueError(f"encoder {encoder} and update {update} must have one width per level")
        if min(*encoder, *update, convs) < 1:
            raise ValueError(f"encoder {encoder}, update {update} and convs {convs} must be at least 1")
        if not 0 <= finest < len(encoder):
            raise ValueError(f"finest {finest} must be one of the {len(encoder)} levels, 0 to {len(encoder) - 1}")
        if not tolerance > 0:
            raise ValueError(f"tolerance {tolerance} must be above 0")
        self.settings = {
            "encoder": encoder, "update": update, "convs": convs, "finest": finest, "correlation": correlation,
            "tolerance": tolerance,
        }  # fmt: skip
        self.regularisation = checked_range(regularisation)
        if self.regularisation is not None:  # weights and cards of before know nothing of it
            self.settings["regularisation"] = list(self.regularisation)
        levels = len(encoder)
        self.finest, self.tolerance = finest, tolerance
        self.factor = 2 ** (levels - 1)
        self.reach = 2 * BOUND * sum(2**k for k in range(finest, levels))
        told = self.regularisation is not None
        self.encoder = Encoder(encoder, convs, told)
        self.updates = nn.ModuleDict(
            {str(k): Update(encoder[k], update[k], convs, correlation, told) for k in range(finest, levels)}
        )
        self.condition = Condition(self.regularisation) if self.regularisation is not None else None

    def forward(
        self, fixed: torch.Tensor, moving: torch.Tensor, regularisation: torch.Tensor | None = None
    ) -> Prediction:
        """See Network. `regularisation`: (N,) the weight of each item; None: the middle of the range, by logarithm."""
        self.check(fixed, moving)
        count = len(fixed)
        code = self._code(regularisation, fixed)
        # Both images, and later both orders, are one batch: the first half is of fixed, the second of moving.
        images = local_contrast(torch.cat([fixed, moving]), 3)
        features = self.encoder(*channels_last(images), code)
        there: torch.Tensor | None = None  # d: cat(d1, d2)
        back: torch.Tensor | None = None  # e: cat(e1, e2)
        for level in range(len(features) - 1, self.finest - 1, -1):
            seen = features[level]
            if there is not None and back is not None:
                there, back = finer(there), finer(back)
                seen = warp(seen, there)
            spline = bounded(self.updates[str(level)](seen, seen.roll(count, 0), code))
            inverse = invert(spline, tolerance=self.tolerance)
            delta = compose(spline, inverse.roll(count, 0))  # cat(delta, delta^-1)
            if there is None or back is None:
                there, back = delta, delta.roll(count, 0)
            else:
                there, back = compose(there, delta), compose(delta.roll(count, 0), back)
        assert there is not None and back is not None, "there is at least one level"
        for _ in range(self.finest):
            there, back = finer(there), finer(back)
        whole = compose(there.roll(count, 0), back)  # cat(d2 o e1, d1 o e2)
        return Prediction(there[:count], there[count:], whole[:count], whole[count:])

    def _code(self, weight: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor | None:
        """Of both images of each item the same."""
        if self.condition is None:
            if weight is not None:
                raise ValueError("this network takes no weight of the regularisation")
            return None
        if weight is None:
            weight = images.new_full((len(images),), self.condition.middle)
        return self.condition(weight).repeat(2, 1)


class Norm(nn.Module):
    """The channels of each voxel to mean 0 and variance 1, then a gain and an offset a channel, changed by a code."""

    def __init__(self, channels: int, told: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.offset = nn.Parameter(torch.zeros(channels))
        self.change = Modulation(channels) if told else None

    def forward(self, x: torch.Tensor, code: torch.Tensor | None) -> torch.Tensor:
        # With channels last this moves nothing. Where nothing is to be seen, noise is not made into texture: eps.
        x = x.movedim(1, -1)
        x = F.layer_norm(x, (len(self.gain),), self.gain, self.offset, eps=1e-3)
        if self.change is not None:
            assert code is not None, "a network that has one hands it on"
            x = self.change(x, code)
        return x.movedim(-1, 1)


class Convolutions(nn.Sequential):
    """`count` times 3^3 convolution, normalisation, rectifier. `told`: the normalisations take a code."""

    def __init__(self, before: int, after: int, count: int, told: bool) -> None:
        parts: list[nn.Module] = []
        for number in range(count):
            parts += [nn.Conv3d(after if number else before, after, 3, padding=1), Norm(after, told), nn.ReLU()]
        super().__init__(*parts)

    def forward(self, x: torch.Tensor, code: torch.Tensor | None) -> torch.Tensor:  # type: ignore[override]
        for part in self:
            x = part(x, code) if isinstance(part, Norm) else part(x)
        return x


class Encoder(nn.Module):
    """An image (N, 1, z, y, x) to features of every level, finest first."""

    def __init__(self, widths: Sequence[int], convs: int, told: bool) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, widths[0], 1)
        self.levels = nn.ModuleList([Convolutions(n, n, convs, told) for n in widths])
        self.down = nn.ModuleList([nn.Conv3d(a, b, 2, stride=2) for a, b in pairwise(widths)])
        self.skip = nn.ModuleList([nn.Conv3d(a, b, 1) for a, b in pairwise(widths)])
        awake(self)

    def forward(self, image: torch.Tensor, code: torch.Tensor | None) -> list[torch.Tensor]:
        x = self.first(image)
        found = [self.levels[0](x, code)]
        for level, down, skip in zip(self.levels[1:], self.down, self.skip, strict=True):
            # The skip past the convolutions of the level before keeps the image itself in sight.
            x = down(found[-1]) + skip(F.avg_pool3d(x, 2))
            found.append(level(x, code))
        return found


class Update(nn.Module):
    """Features of two images in mid-space to raw control points; nothing but 3^3 convolutions."""

    def __init__(self, channels: int, hidden: int, convs: int, correlation: bool, told: bool) -> None:
        super().__init__()
        self.correlation = correlation
        self.hidden = Convolutions(2 * channels + NEIGHBOURS * correlation, hidden, convs, told)
        awake(self)
        self.last = quiet(nn.Conv3d(hidden, 3, 3, padding=1))

    def forward(self, a: torch.Tensor, b: torch.Tensor, code: torch.Tensor | None) -> torch.Tensor:
        parts = [a - b, a + b]
        if self.correlation:
            # Of features as they are, the part that both have everywhere would hide all that tells a shift.
            parts.append(local_correlation(local_contrast(a, 2), local_contrast(b, 2)))
        return self.last(self.hidden(torch.cat(parts, 1), code))
