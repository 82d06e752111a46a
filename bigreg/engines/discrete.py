"""`discrete`: search of a whole window of displacements for each lattice cell, regularised by coupled convex steps.

Every integer displacement d within the level's bound is tried in every cell: the cost is the mean squared difference of
contrast-free features of F at x + d and M at x - d. A smooth field u and the best d a cell are then found in turns,
argmin_d cost(d) + theta |d - u|^2 with theta rising and u the smoothed d (coupled convex optimisation, Steinbruecker,
Pock and Cremers 2009; Heinrich, Papiez and Schnabel 2014). There is no local minimum within the window. It is meant for
the coarse levels; `optimise` finds the rest.
"""

from __future__ import annotations

from itertools import product
from typing import ClassVar

import numpy as np
import torch

from ..similarity import by_name
from ..transforms.bspline import BOUND_CELLS
from .base import PatchPair, VelocityPatch

COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # theta, in mean costs a squared voxel


class Discrete:
    """Engine.

    similarity   "mind" or "ngf" (see bigreg.similarity): features that are compared by their squared difference
    noise        intensity SD (of images scaled to about 0..1) that counts as no texture
    iterations   turns of search and smoothing at each of the six strengths of their coupling, at most 3
    smoothing    cells on each side over which the field is averaged
    """

    antisymmetric: ClassVar[bool] = True
    takes_channels: ClassVar[bool] = True
    takes_labels: ClassVar[bool] = True
    card_bytes_a_voxel: ClassVar[int] = 263  # counted on a simulated device

    def __init__(
        self, *, similarity: str = "mind", noise: float = 0.01, iterations: int = 1, smoothing: int = 1
    ) -> None:
        if similarity not in ("mind", "ngf"):
            raise ValueError(f"similarity {similarity!r} has no features; use mind or ngf")
        if iterations < 1 or smoothing < 1:
            raise ValueError(f"iterations {iterations} and smoothing {smoothing} must be at least 1")
        self.similarity = by_name(similarity, noise=noise)
        self.turns = min(iterations, 3)
        self.smoothing = smoothing

    def estimate(self, pair: PatchPair) -> VelocityPatch:
        """See bigreg.engines.base. All channels are compared by this engine's features, whatever their similarity."""
        samples = pair.lattice.samples
        reach = [int(BOUND_CELLS * s) for s in samples]
        steps = list(product(*(range(-r, r + 1) for r in reach)))
        cost, known = self._all_costs(pair, steps)
        candidates = torch.tensor(steps, dtype=cost.dtype, device=cost.device)
        spread = cost.std(0) * known
        field, chosen = self._coupled(cost / cost.mean().clamp_min(1e-12), candidates, spread)
        still = steps.index((0, 0, 0))
        total = known.sum().clamp_min(1e-12)
        quality = {
            "similarity_before": 1.0 - 0.5 * float((cost[still] * known).sum() / total),
            "similarity_after": 1.0 - 0.5 * float((cost.gather(0, chosen[None])[0] * known).sum() / total),
        }
        voxel = torch.tensor(
            [s / n for s, n in zip(pair.lattice.spacing, samples, strict=True)], dtype=cost.dtype, device=cost.device
        ).reshape(3, 1, 1, 1)
        outer = lambda t: torch.nn.functional.pad(t[None], (2,) * 6, mode="replicate")[0]  # noqa: E731
        # A cell whose cost is the same wherever it looks knows nothing.
        confidence = outer((spread / (spread + 0.25 * cost.mean()).clamp_min(1e-12))[None])[0]
        return VelocityPatch(outer(field) * voxel, confidence, quality)

    def _all_costs(self, pair: PatchPair, steps: list) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean cost of all channels and labels, by their weights and by how much of a cell each shows."""
        found = []
        for one in pair.channels:
            features = self.similarity.features if not one.labels else lambda image, mask: image[None]
            images = [
                torch.cat([features(channel, mask) for channel in image])
                for image, mask in ((one.fixed, one.fixed_mask), (one.moving, one.moving_mask))
            ]
            found.append(_costs(images, (one.fixed_mask, one.moving_mask), steps, pair.lattice.samples))
        if len(found) == 1:
            return found[0]
        weights = [one.weight for one in pair.channels]
        shares = [w * known for w, (_, known) in zip(weights, found, strict=True)]
        total = torch.stack(shares).sum(0).clamp_min(1e-12)
        cost = torch.stack([cost * share for share, (cost, _) in zip(shares, found, strict=True)]).sum(0) / total
        return cost, torch.stack([known for _, known in found]).amax(0)

    def _coupled(
        self, cost: torch.Tensor, candidates: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The smooth field (3, cells) in voxels and the candidate (cells) that each cell takes in the end."""
        field = torch.zeros(3, *cost.shape[1:], dtype=cost.dtype, device=cost.device)
        weight = weight / weight.max().clamp_min(1e-12) + 1e-3
        chosen = cost.argmin(0)
        for theta in COUPLING:
            for _ in range(self.turns):
                # |d - u|^2 without |u|^2, which is the same for every candidate.
                pull = candidates.square().sum(1)[:, None, None, None] - 2 * torch.einsum(
                    "ka,azyx->kzyx", candidates, field
                )
                chosen = (cost + theta * pull).argmin(0)
                best = candidates[chosen].permute(3, 0, 1, 2)
                field = self._smooth(best * weight) / self._smooth(weight[None])
        return field, chosen

    def _smooth(self, values: torch.Tensor) -> torch.Tensor:
        width = 2 * self.smoothing + 1
        padded = torch.nn.functional.pad(values[None], (self.smoothing,) * 6, mode="replicate")
        return torch.nn.functional.avg_pool3d(padded, width, stride=1)[0]


def _costs(
    features: list[torch.Tensor], masks: tuple[torch.Tensor, torch.Tensor], steps: list, samples: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cost (candidates, cells) and the part of each cell that both images show (cells).

    Where a candidate leaves the images, the cell's mean over the other candidates stands in: it says nothing.
    """
    fixed, moving = features
    mask_f, mask_m = (m.to(fixed.dtype) for m in masks)
    cells = tuple(n // s for n, s in zip(mask_f.shape, samples, strict=True))
    sums = torch.zeros(len(steps), *cells, dtype=fixed.dtype, device=fixed.device)
    counts = torch.zeros_like(sums)
    if fixed.device.type == "cpu" and fixed.dtype == torch.float32:
        from .discrete_cpu import costs

        arrays = (t.contiguous().numpy() for t in (fixed, moving, mask_f, mask_m))
        costs(*arrays, np.array(steps, np.int64), np.array(samples, np.int64), sums.numpy(), counts.numpy())
    else:
        for k, step in enumerate(steps):
            # x with both x + d and x - d in the patch.
            inner = tuple(slice(abs(d), n - abs(d)) for d, n in zip(step, mask_f.shape, strict=True))
            there = tuple(slice(abs(d) + d, n - abs(d) + d) for d, n in zip(step, mask_f.shape, strict=True))
            back = tuple(slice(abs(d) - d, n - abs(d) - d) for d, n in zip(step, mask_f.shape, strict=True))
            both = torch.zeros_like(mask_f)
            cost = torch.zeros_like(mask_f)
            both[inner] = mask_f[there] * mask_m[back]
            difference = fixed[(slice(None), *there)] - moving[(slice(None), *back)]
            cost[inner] = difference.square().mean(0) * both[inner]
            pool = lambda t: torch.nn.functional.avg_pool3d(t[None, None], samples)[0, 0]  # noqa: E731
            sums[k], counts[k] = pool(cost) * float(np.prod(samples)), pool(both) * float(np.prod(samples))
    mean = sums.sum(0) / counts.sum(0).clamp_min(1.0)
    prior = 0.1 * float(np.prod(samples))
    return (sums + prior * mean) / (counts + prior), counts.mean(0) / float(np.prod(samples))
