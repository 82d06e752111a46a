"""Several channels of a patch at once: their losses, slopes and curvatures are added, each times its weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..similarity import Similarity, by_name
from .agreement import agreement, without_detail
from .base import ChannelPair, PatchPair
from .gauss_newton import MidSpacePair, Pull

Named = Callable[[str | None], Similarity]
"""The similarity of a channel by its name; None: the engine's own."""


def named(own: Similarity, radius: int, noise: float) -> Named:
    """`own`, or a channel's, with the engine's radius and noise."""
    return lambda name: own if name is None or name == own.name else by_name(name, radius=radius, noise=noise)


class MidSpacePairs:
    """Some MidSpacePairs, as one. `detailed`: whether each may be asked for its agreement in detail."""

    def __init__(self, pairs: Sequence[MidSpacePair], weights: Sequence[float], detailed: Sequence[bool]) -> None:
        self.pairs, self.weights, self.detailed = pairs, weights, detailed
        self.alone = list(weights) == [1.0]

    def __call__(self, coefficients: torch.Tensor | None, *, curvature: bool) -> Pull:
        """The weighted sum; the mean is over the voxels of all, times their weights."""
        return self._summed([pair(coefficients, curvature=curvature) for pair in self.pairs])

    def halves(self, coefficients: torch.Tensor | None) -> tuple[Pull, Pull]:
        """Of two halves of the voxels; see MidSpacePair.halves."""
        first, second = zip(*(pair.halves(coefficients) for pair in self.pairs), strict=True)
        return self._summed(first), self._summed(second)

    def _summed(self, pulls: Sequence[Pull]) -> Pull:
        if self.alone:
            return pulls[0]
        loss = voxels = 0.0
        slope: torch.Tensor | None = None
        matrix: torch.Tensor | None = None
        for pull, weight in zip(pulls, self.weights, strict=True):
            if pull.weight:
                loss, voxels = loss + weight * pull.mean * pull.weight, voxels + weight * pull.weight
            slope = weight * pull.slope if slope is None else slope + weight * pull.slope
            if pull.matrix is not None:
                matrix = weight * pull.matrix if matrix is None else matrix + weight * pull.matrix
        assert slope is not None, "there is a pair"
        return Pull(loss / voxels if voxels else float("nan"), voxels, slope, matrix)

    def agreement(self, coefficients: torch.Tensor | None) -> float:
        """In detail, of the channel that agrees best; 1 where none has detail (see bigreg.engines.agreement)."""
        if self.alone:
            return agreement(*self.pairs[0].warped(coefficients))
        asked = (pair for pair, detailed in zip(self.pairs, self.detailed, strict=True) if detailed)
        found = (agreement(*pair.warped(coefficients)) for pair in asked)
        return max((value for value in found if value < 1.0), default=1.0)


def mid_space_pair(one: ChannelPair | PatchPair, similarity: Similarity, samples: Sequence[int]) -> MidSpacePair:
    """One pair of channels, as the features of a similarity."""
    fixed, moving = (
        torch.cat([similarity.features(channel, mask) for channel in image])
        for image, mask in ((one.fixed, one.fixed_mask), (one.moving, one.moving_mask))
    )
    return MidSpacePair(fixed, moving, one.fixed_mask, one.moving_mask, similarity, samples)


def mid_space_pairs(pair: PatchPair, by: Named, samples: Sequence[int]) -> MidSpacePairs:
    """All channels of a patch, and its labels."""
    pairs = [mid_space_pair(one, by(one.similarity), samples) for one in pair.channels]
    return MidSpacePairs(pairs, [one.weight for one in pair.channels], [not one.labels for one in pair.channels])


def without_detail_of(pair: PatchPair, stiffer: float) -> PatchPair:
    """All channels of a patch without their detail, for a map so many times as stiff. Labels keep their borders, and
    their weight against the stiffness; nothing is asked of sigma."""

    def smoothed(one: ChannelPair) -> ChannelPair:
        fixed, moving = without_detail(one.fixed, one.fixed_mask), without_detail(one.moving, one.moving_mask)
        return replace(one, fixed=fixed, moving=moving)

    first, *others = (
        replace(one, weight=stiffer * one.weight) if one.labels else smoothed(one) for one in pair.channels
    )
    return replace(pair, fixed=first.fixed, moving=first.moving, others=tuple(others), sigma=False)
