"""A patch that does not fit into the memory of the GPU is estimated in parts."""

from __future__ import annotations

import logging
from typing import Any

import torch

from ..device import empty_cache, halvings, is_out_of_memory
from ..errors import ResourceError
from .base import Engine, PatchPair, VelocityPatch, estimate_antisymmetric

logger = logging.getLogger(__name__)

OVERLAP = 4
"""Cells on either side of a cut that both parts see."""


def estimate_fitting(engine: Engine, pair: PatchPair) -> VelocityPatch:
    """The engine's antisymmetric velocity of a patch.

    Where smaller pieces are asked for (`bigreg.device.smaller_pieces`) and memory runs out, of two overlapping halves,
    and so on: `quality` then says how many `parts` there were, and what is found differs by up to 0.1 voxel from that
    of the whole. Raises ResourceError where even a small part does not fit.
    """
    try:
        return estimate_antisymmetric(engine, pair)
    except (RuntimeError, MemoryError) as error:
        if not halvings() or not is_out_of_memory(error):
            raise
        reason = str(error).partition(". ")[0]
    empty_cache()
    cells = pair.lattice.cells
    axis = max(range(3), key=lambda a: cells[a])
    if cells[axis] < 4 * OVERLAP:
        raise ResourceError(
            f"not even a patch of {tuple(pair.lattice.grid.shape)} voxels fits into the memory of the GPU ({reason}); "
            "free the GPU of other work, or use another similarity or engine"
        )
    logger.warning("a patch of %s voxels did not fit: %s; estimated in two parts", pair.lattice.grid.shape, reason)
    middle = cells[axis] // 2
    near = estimate_fitting(engine, cut(pair, axis, 0, middle + OVERLAP))
    far = estimate_fitting(engine, cut(pair, axis, middle - OVERLAP, cells[axis]))
    return joined(near, far, axis, middle - OVERLAP)


def cut(pair: PatchPair, axis: int, start: int, stop: int) -> PatchPair:
    """The part of a patch from cell `start` up to `stop` along an axis."""
    lattice = pair.lattice
    low = tuple(start if a == axis else 0 for a in range(3))
    high = tuple(stop if a == axis else n for a, n in enumerate(lattice.cells))
    box: tuple[Any, ...] = tuple(slice(a * s, b * s) for a, b, s in zip(low, high, lattice.samples, strict=True))
    points: tuple[Any, ...] = tuple(slice(a, b + 4) for a, b in zip(low, high, strict=True))
    return PatchPair(
        pair.fixed[(..., *box)],
        pair.moving[(..., *box)],
        pair.fixed_mask[box],
        pair.moving_mask[box],
        lattice=lattice.part(low, high),
        level=pair.level,
        native=pair.native,
        start=None if pair.start is None else pair.start[(..., *points)],
        sigma=pair.sigma,
        similarity=pair.similarity,
        weight=pair.weight,
        others=tuple(one.part(box) for one in pair.others),
    )


def joined(near: VelocityPatch, far: VelocityPatch, axis: int, start: int) -> VelocityPatch:
    """Two parts as one patch; the second begins at cell `start`. Where both are known one fades into the other."""
    length = near.confidence.shape[axis]
    total = start + far.confidence.shape[axis]
    shared = length - start
    like: dict[str, Any] = {"dtype": near.confidence.dtype, "device": near.confidence.device}
    place = torch.arange(total, **like)
    fade = ((place - start + 0.5) / shared).clamp(0, 1)

    def blend(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        dim = a.ndim - 3 + axis
        shape = [total if d == dim else 1 for d in range(a.ndim)]
        first, second = (a.new_zeros([total if d == dim else n for d, n in enumerate(a.shape)]) for _ in range(2))
        first.narrow(dim, 0, length).copy_(a)
        second.narrow(dim, start, total - start).copy_(b)
        weight = fade.reshape(shape)
        return first * (1 - weight) + second * weight

    quality = {k: (near.quality[k] + far.quality[k]) / 2 for k in near.quality.keys() & far.quality.keys()}
    quality["parts"] = near.quality.get("parts", 1.0) + far.quality.get("parts", 1.0)
    sigma = None if near.sigma is None or far.sigma is None else blend(near.sigma, far.sigma)
    return VelocityPatch(
        blend(near.coefficients, far.coefficients), blend(near.confidence, far.confidence), quality, sigma
    )
