"""Task: blend the patches around a block into one velocity on the global lattice.

c = sum_p w_p q_p c_p / (sum_p w_p q_p + prior), where pairs of landmarks count as patches (see steering.py), summed in
one fixed order, so that the result is the same bits whoever computed what and when. A convex combination of bounded
control points is bounded, so the blend is invertible however much neighbours disagree; displacements blended in the
same way would fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ... import storage
from ...device import current_device
from ...geometry import Block, BlockGrid, Shape, triple
from ...transforms.bspline import BOUND_CELLS, soft_bound
from ..context.context import Context
from ..context.ladder import LevelPlan
from ..labels import label
from ..schedule.flow import Need, Stage
from ..store.store import Status
from . import estimate, steering
from .steering import Pulls

METRICS = ("velocity", "disagreement")
LEAST_SIGMA = 1e-6  # um
PRIOR = 1e-3  # weight of "does not move", against confidences of up to 1
SIGMA = "sigma"
"""The array of the finest level with the SD of its velocity's control points, um."""
LEAST_CONFIDENCE = 0.02  # inside a patch that is not blank: its smooth continuation beats an abrupt stop


def create(context: Context, level: LevelPlan) -> None:
    for name in ("velocity", SIGMA) if estimate.sigma_kept(context, level) else ("velocity",):
        storage.create_array(
            context.store.path("levels", level.index, name),
            shape=(3, *level.lattice.points),
            dtype="float32",
            chunks=(3, *level.blocks.core),
            fill_value=float("nan") if name == SIGMA else 0,
            dimension_names=("c", "z", "y", "x"),
            exist_ok=True,
        )


def window(block: Block, blocks: BlockGrid, axis: int) -> np.ndarray:
    """Weight of a patch at its control points along one axis: 1 in the core, falling to 0 over the inner halo.

    The outermost cell of the halo counts for nothing: an engine knows least there. At the border of the domain there is
    no neighbour and no fall.
    """
    start, stop = block.halo_start[axis], block.halo_stop[axis]
    points = np.arange(start - 2, stop + 2) + 0.5
    before = block.start[axis] - points if block.start[axis] > 0 else np.full(points.shape, -1.0)
    after = points - block.stop[axis] if block.stop[axis] < blocks.cells[axis] else np.full(points.shape, -1.0)
    outside = np.maximum(np.maximum(before, after), 0.0)
    ramp = max(blocks.halo[axis] - 1, 1)
    return np.cos(np.pi / 2 * np.minimum(outside / ramp, 1.0)) ** 2


def owned(block: Block, blocks: BlockGrid) -> tuple[Shape, Shape]:
    """The control points (array indices) that a block writes: as many as cells; the last block the border too."""
    stop = triple(b + 4 if b == n else b for b, n in zip(block.stop, blocks.cells, strict=True))
    return block.start, stop


Piece = tuple[tuple[slice, ...], torch.Tensor, torch.Tensor]


def reaching(blocks: BlockGrid, index: Shape, read_patch: Callable[[Shape], np.ndarray | None]) -> Iterator[Piece]:
    """What patches say of the control points that a block owns, in one fixed order.

    Of each: which of these points it holds, what it says there (C, z, y, x) and its weight (z, y, x); float64.
    """
    low, high = owned(blocks[index], blocks)
    doubles: dict[str, Any] = {"dtype": torch.float64, "device": current_device()}
    # A control point at array index i stands in cell i - 2, so patches up to two cells away hold it.
    for other in blocks.overlapping(tuple(a - 4 for a in low), high):
        block = blocks[other]
        own_low = block.halo_start
        own_high = tuple(b + 4 for b in block.halo_stop)
        first = tuple(max(a, b) for a, b in zip(low, own_low, strict=True))
        last = tuple(min(a, b) for a, b in zip(high, own_high, strict=True))
        if any(a >= b for a, b in zip(first, last, strict=True)):
            continue
        patch = read_patch(other)
        if patch is None:
            continue
        mine = tuple(slice(a - o, b - o) for a, b, o in zip(first, last, own_low, strict=True))
        target = tuple(slice(a - o, b - o) for a, b, o in zip(first, last, low, strict=True))
        z, y, x = (torch.as_tensor(window(block, blocks, axis)[mine[axis]], **doubles) for axis in range(3))
        said = torch.as_tensor(patch[(slice(None), *mine)], **doubles)
        yield target, said, z[:, None, None] * y[:, None] * x


def blend(
    blocks: BlockGrid,
    index: Shape,
    read_patch,
    bound: np.ndarray,
    pulls: Pulls | None = None,
) -> tuple[np.ndarray, float]:
    """The blended coefficients (3, z, y, x) of the control points a block owns, and how much the patches disagreed.

    read_patch   block -> (4, points of its halo box) of coefficients (um) and confidence, or None where blank
    bound        (3,) largest coefficient, um
    pulls        what pairs of landmarks ask for
    disagreement is the confidence-weighted RMS distance of the patches from their blend, um
    """
    low, high = owned(blocks[index], blocks)
    shape = tuple(b - a for a, b in zip(low, high, strict=True))
    doubles: dict[str, Any] = {"dtype": torch.float64, "device": current_device()}
    total, square, weight = (torch.zeros(n, **doubles) for n in ((3, *shape), shape, shape))
    limit = torch.as_tensor(bound, **doubles).reshape(3, 1, 1, 1)
    for target, (*parts, confidence), own in reaching(blocks, index, read_patch):
        q = confidence.clamp(min=LEAST_CONFIDENCE) * own
        c = soft_bound(torch.stack(parts), limit)
        total[(slice(None), *target)] += q * c
        square[target] += q * c.square().sum(0)
        weight[target] += q
    mean = total / weight.clamp(min=1e-12)
    spread = float((square - weight * mean.square().sum(0)).clamp(min=0.0).sum() / weight.sum().clamp(min=1e-12))
    if pulls is not None:
        pulls.add(total, weight, low, limit, soft_bound)
    blended = soft_bound(total / (weight + PRIOR), limit)
    return blended.cpu().numpy(), float(np.sqrt(spread))


def blend_sigma(blocks: BlockGrid, index: Shape, read_patch: Callable[[Shape], np.ndarray | None]) -> np.ndarray:
    """(3, z, y, x) SD of the control points a block owns, um: of their mean precision; NaN where nothing is known.

    read_patch   block -> (3, points of its halo box) SD, or None where it is blank

    Patches that overlap see the same voxels there, so that two of them know no more than one.
    """
    low, high = owned(blocks[index], blocks)
    shape = tuple(b - a for a, b in zip(low, high, strict=True))
    total = torch.zeros(3, *shape, dtype=torch.float64, device=current_device())
    weight = torch.zeros_like(total)
    for target, sigma, own in reaching(blocks, index, read_patch):
        known = torch.isfinite(sigma)
        precision = torch.where(known, sigma, 1.0).clamp(min=LEAST_SIGMA).pow(-2)
        total[(slice(None), *target)] += own * known * precision
        weight[(slice(None), *target)] += own * known
    found = (weight / total.clamp(min=1e-300)).sqrt()
    return torch.where(weight > 1e-6, found, torch.nan).cpu().numpy()


def needs(level: LevelPlan) -> tuple[Need, ...]:
    """A block blends all patches that reach into what it owns."""

    def patches(index: Shape) -> tuple[Shape, Shape]:
        low, high = owned(level.blocks[index], level.blocks)
        return level.blocks.touching(tuple(a - 4 for a in low), high, halo=True)

    return (Need(f"levels/{level.index}", patches),)


def stage(level: LevelPlan, *, steered: bool) -> Stage:
    """`steered`: whether pairs of landmarks pull too."""
    return Stage(
        f"levels/{level.index}/stitch", label("stitch", level=level.index), level.blocks.counts, stitch, (level.index,),
        METRICS, (*needs(level), *([steering.everywhere(level)] if steered else [])),
    )  # fmt: skip


def stitch(context: Context, level_index: int, index: Shape) -> tuple[Status, dict[str, float]]:
    """Blend and store the control points that one block owns."""
    level = context.levels[level_index]
    patches = context.array("levels", level_index, "patches")
    bound = BOUND_CELLS * np.asarray(level.lattice.spacing)
    pulls = Pulls.of(context, level)
    coefficients, disagreement = blend(level.blocks, index, _reader(patches, level.blocks), bound, pulls)
    array = context.array("levels", level_index, "velocity", write=True)
    low, _ = owned(level.blocks[index], level.blocks)
    array.write((0, *low), coefficients.astype(np.float32))
    if estimate.sigma_kept(context, level):
        sigma = blend_sigma(level.blocks, index, _reader(context.array("levels", 0, estimate.SIGMA), level.blocks))
        context.array("levels", 0, SIGMA, write=True).write((0, *low), sigma.astype(np.float32))
    cells = np.abs(coefficients) / np.asarray(level.lattice.spacing).reshape(3, 1, 1, 1)
    return Status.DONE, {"velocity": float(cells.max()), "disagreement": disagreement}


def _reader(array: storage.Array, blocks: BlockGrid) -> Callable[[Shape], np.ndarray | None]:
    """Reads the patch of a block; None where it is blank."""

    def read(block: Shape) -> np.ndarray | None:
        points = tuple(n + 4 for n in blocks[block].halo_shape)
        patch = array.read((*block, 0, 0, 0, 0), (*(i + 1 for i in block), array.shape[3], *points))[0, 0, 0]
        return None if np.isnan(patch).all() else patch

    return read
