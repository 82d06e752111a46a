"""Task: where the fixed image shows what has no counterpart in the moving one, or nothing where that shows something.

The engines tell it at the voxels of the finest level, in mid-space (see tasks/estimate.py).
"""

from __future__ import annotations

import numpy as np
import torch

from ... import storage
from ...errors import InputError
from ...geometry import BlockGrid, Grid, Shape, triple
from ...quality.confidence import TILE
from ...transforms.positions import Positions
from ...volumes import create_image, downsample
from ..context.context import Context
from ..labels import label
from ..schedule.flow import Stage
from ..store.store import Status
from ..tasks import estimate
from ..tasks.fields import Followed
from .confidence import images_of, tile_grid
from .status import UNMATCHED_STAGE

METRICS = ("seen", "unmatched")
"""Voxels that lie in both images, and those of them that have no counterpart."""
PLACE = "noncorrespondence"
CORE = 16
"""Tiles of 8^3 voxels along an axis of a block."""
CHUNK = CORE * TILE
"""Voxels along an axis of a chunk, which one block writes."""


def blocks_of(tiles: Grid) -> BlockGrid:
    return BlockGrid(tiles.shape, triple(min(CORE, n) for n in tiles.shape), (0, 0, 0))


def stage(tiles: Grid) -> Stage:
    return Stage(UNMATCHED_STAGE, label("noncorrespondence"), blocks_of(tiles).counts, measure, metrics=METRICS)


def kept(context: Context) -> bool:
    """Whether a run has what it is made of."""
    return estimate.keeps_unmatched(context, context.levels[0])


def require_sought(context: Context) -> None:
    """Raise InputError where a run will never have it, with the reason."""
    if kept(context):
        return
    where, config = f"'{context.store.url}' has no mask of non-correspondence", context.config
    if "noncorrespondence" not in context.attributes["config"].get("masks", {}):
        raise InputError(f"{where}: an earlier version of bigreg began it; register again")
    if not config.deformation:
        raise InputError(f"{where}: it has no deformation")
    if not config.masks.noncorrespondence:
        raise InputError(f"{where}: masks.noncorrespondence is false in its configuration")
    raise InputError(
        f"{where}: local correlation decides on it, which needs `optimise` as the last engine of the finest level, "
        "with similarity lncc, lncc_squared, ncc or mse"
    )


def create(context: Context) -> None:
    """An empty image of 0 and 1; it gets its metadata when it is finished."""
    create_image(
        context.store.path(PLACE), [images_of(context)[0].grid], "uint8", name="no counterpart in the other image",
        chunks=(CHUNK,) * 3, shards=None, orientation=context.volumes["fixed"].orientation, finished=False,
    )  # fmt: skip


def on_grid(context: Context, grid: Grid) -> np.ndarray:
    """(z, y, x) share 0 .. 1 of the voxels in each voxel of a coarser grid along the fixed image's axes."""
    array = context.store.array(PLACE, "0")
    fine = images_of(context)[0].grid
    factors = triple(max(1, round(c / f)) for c, f in zip(grid.spacing, fine.spacing, strict=True))
    out = np.zeros(grid.shape, np.float32)
    for z in range(grid.shape[0]):
        planes = array.read((z * factors[0], 0, 0), (min((z + 1) * factors[0], fine.shape[0]), *fine.shape[1:]))
        if planes.any():
            out[z] = downsample(planes.astype(np.float32), (len(planes), *factors[1:]))[0]
    return out


def seen_in_fixed(context: Context, part: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Bool (z, y, x) at the samples of a grid of the fixed world: what lies in both images, and has no counterpart."""
    here = Positions.of_grid(part, context.device)
    there = Followed.of(context, "fixed_to_moving", part)(here)
    known = there.inside(context.frames.moving)
    return known, known & estimate.without_counterpart(context, here, there)


def measure(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    """Compute and store one block of the mask on the fixed image."""
    grid = images_of(context)[0].grid
    block = blocks_of(tile_grid(grid))[index]
    start = triple(a * TILE for a in block.start)
    stop = triple(min(b * TILE, n) for b, n in zip(block.stop, grid.shape, strict=True))
    known, found = seen_in_fixed(context, grid.cropped(start, stop))
    storage.open_array(context.store.path(PLACE, "0"), write=True).write(start, found.cpu().numpy().astype(np.uint8))
    seen = float(known.sum())
    return (Status.DONE if seen else Status.BLANK), {"seen": seen, "unmatched": float(found.sum())}
