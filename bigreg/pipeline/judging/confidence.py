"""Task: the risk of every tile of the fixed image that the map is wrong there; see quality/confidence.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ... import storage
from ...geometry import BlockGrid, Grid, Shape, Vector, triple
from ...quality.confidence import HALO, LARGE, RISKY, STRUCTURED, TILE, risk, said
from ...quality.tile_features import STEP, Cells, features, pooled
from ...transforms.positions import Positions
from ...volumes import create_image
from ..context.channels import IMAGES, Pair
from ..context.context import Context
from ..context.images import LevelImage, looked_up
from ..context.seen import SeenImage
from ..labels import label
from ..schedule.flow import Stage
from ..store.store import Status
from ..tasks import estimate
from ..tasks.warp import followed_pieces

METRICS = ("tiles", "risky", "structured", "expected")
"""Tiles of which something is known; flagged ones; those with detail; how many of these are off, by all their risks."""
OF_CHANNEL = METRICS[2:]
"""Those that are kept of each pair of channels too, by its number, where there are several."""
PLACE = "confidence"
CORE = 32
"""Tiles along an axis of a block: large, so that its halo is small beside it."""
CHUNK = 16
"""Tiles along an axis of a chunk."""
OTHER_CONTRAST = ("lncc_squared", "mi", "nmi", "mind", "ngf")
"""Similarities for which dark may go with bright."""


def tile_grid(image: Grid) -> Grid:
    """The tiles of an image at the finest level's resolution; the last ones may reach beyond it."""
    whole = tuple(-(-n // TILE) * TILE for n in image.shape)
    return image.cropped((0, 0, 0), whole).downsampled((TILE,) * 3)


def blocks_of(tiles: Grid) -> BlockGrid:
    return BlockGrid(tiles.shape, triple(min(CORE, n) for n in tiles.shape), (HALO,) * 3)


def stage(tiles: Grid, channels: int = 1) -> Stage:
    """channels: pairs of them."""
    metrics = (*METRICS, *(of_channel(name, k + 1) for k in range(channels) for name in OF_CHANNEL if channels > 1))
    return Stage("stages/confidence", label("confidence"), blocks_of(tiles).counts, measure, metrics=metrics)


def of_channel(metric: str, number: int) -> str:
    """What a metric of one pair of channels is called."""
    return f"{metric}_{number}"


def images_of(context: Context, pair: Pair | None = None) -> tuple[LevelImage | SeenImage, LevelImage | SeenImage]:
    """Both images of a pair of channels (by default the first) at the finest level's resolution."""
    finest, (fixed, moving) = context.levels[0], IMAGES if pair is None else pair.images
    return context.level_image(fixed, finest), context.level_image(moving, finest)


def tiles_of(context: Context) -> Grid:
    return tile_grid(images_of(context)[0].grid)


def threshold_um(context: Context) -> Vector:
    """The length (um) along z, y and x above which an error is large: LARGE voxels of the finest level."""
    return triple(LARGE * s / TILE for s in tiles_of(context).spacing)


def create(context: Context) -> None:
    """An empty image of risks, NaN where nothing is known; it gets its metadata when it is finished.

    The attributes of its array say what a large error is: `large_voxels`, and `large_um` along z, y and x.
    """
    large = threshold_um(context)
    create_image(
        context.store.path(PLACE), [tiles_of(context)], "float32", name=f"risk of an error above {said(large)}",
        chunks=(CHUNK,) * 3, shards=None, orientation=context.volumes["fixed"].orientation, finished=False,
    )  # fmt: skip
    storage.write_attributes(context.store.path(PLACE, "0"), {"large_voxels": LARGE, "large_um": list(large)})


def same_contrast(context: Context, pair: Pair | None = None) -> bool:
    """Whether the engines of the run take it that bright goes with bright, in a pair of channels (None: in all)."""
    if pair is None:
        return all(same_contrast(context, each) for each in context.pairs)
    if pair.similarity is not None:
        return pair.similarity not in OTHER_CONTRAST
    options = context.config.engine_options
    return not any(options.get(e, {}).get("similarity") in OTHER_CONTRAST for e in context.config.engine)


def calibrated(context: Context) -> bool:
    """Whether the stored risk means what it says; of a run of before other contrasts were learnt it may not."""
    place = context.store.path(PLACE, "0")
    return same_contrast(context) or (storage.exists(place) and "large_um" in storage.read_attributes(place))


def block_features(context: Context, start: Shape, stop: Shape) -> list[dict[str, np.ndarray]]:
    """The features of the tiles of a box (halo included), of each pair of channels."""
    return [
        features(block_cells(context, start, stop, pair), signed=same_contrast(context, pair)) for pair in context.pairs
    ]


def most_detailed(found: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Of each tile the features of the channels with most detail."""
    if len(found) == 1:
        return found[0]
    judged = [np.isfinite(np.stack(list(one.values()))).all(0) for one in found]
    detail = [np.where(known, one["detail"], -np.inf) for one, known in zip(found, judged, strict=True)]
    best = np.stack(detail).argmax(0)[None]
    return {name: np.take_along_axis(np.stack([one[name] for one in found]), best, 0)[0] for name in found[0]}


def block_cells(context: Context, start: Shape, stop: Shape, pair: Pair | None = None) -> Cells:
    """Both images of a box of tiles, pooled piece by piece, so that it takes an eighth of the memory of its voxels.

    pair   of channels; None: the first

    What the engines found to have no counterpart counts as not known: nothing there tells where it should lie.
    """
    matched = estimate.keeps_unmatched(context, context.levels[0])
    fixed, moving = images_of(context, pair)
    names = IMAGES if pair is None else pair.images
    first = triple(a * TILE for a in start)
    last = triple(min(b * TILE, n) for b, n in zip(stop, fixed.grid.shape, strict=True))
    shape = tuple((b - a) * TILE // STEP for a, b in zip(start, stop, strict=True))
    cells = Cells(*(torch.zeros(shape, device=context.device) for _ in range(3)))
    for low, high, here, there in followed_pieces(context, fixed.grid, first, last):
        known = there.inside(context.frames.moving)
        for which, places in zip(names, (here, there), strict=True):
            tissue = context.tissue(which)
            if tissue is not None:
                known &= tissue.at(places)
        if matched:
            known &= ~estimate.without_counterpart(context, here, there)
        if not bool(known.any()):
            continue
        values = []
        for which, image, places in zip(names, (fixed, moving), (here, there), strict=True):
            if which == names[0] and image.weights is None:
                read = image.read(low, high).astype(np.float32)
                found, seen = torch.as_tensor(read, device=context.device)[None], None
            else:
                found, seen = looked_up(image, places)
            known = known if seen is None else known & seen
            values.append(context.compared(which, found[0]))
        piece = pooled(values[0], values[1], known)
        box = tuple(
            slice((a - o) // STEP, (a - o) // STEP + n) for a, o, n in zip(low, first, piece.count.shape, strict=True)
        )
        for whole, part in zip(vars(cells).values(), vars(piece).values(), strict=True):
            whole[box] = part
    return cells


def disagreement(context: Context, start: Shape, stop: Shape) -> np.ndarray:
    """How much the patches of the last pass differed before blending, at the tiles of a box; voxels."""
    level = context.levels[0]
    metric = storage.open_array(context.store.path("levels", 0, "stitch", "metrics", "disagreement"))
    mid = Positions.of_grid(tiles_of(context).cropped(start, stop)).through(context.frames.to_mid("fixed"))
    cells = np.floor((mid.points() - level.lattice.origin) / level.lattice.spacing)
    index = np.clip(cells // level.blocks.core, 0, np.subtract(metric.shape, 1)).astype(int)
    low, high = index.min(0), index.max(0) + 1
    values = np.nan_to_num(metric.read(tuple(low), tuple(high)))[tuple((index - low).T)]
    return values.reshape(mid.offset.shape[1:]) / min(level.spacing)


def measure(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    """Compute and store the risks of one block of tiles."""
    block = blocks_of(tiles_of(context))[index]
    inner = tuple(slice(a - o, b - o) for a, b, o in zip(block.start, block.stop, block.halo_start, strict=True))
    each = [
        {name: values[inner] for name, values in found.items()}
        for found in block_features(context, block.halo_start, block.halo_stop)
    ]
    apart = disagreement(context, block.start, block.stop)
    values, metrics = judged(most_detailed(each), apart)
    storage.open_array(context.store.path(PLACE, "0"), write=True).write(block.start, values)
    for number, found in enumerate(each if len(each) > 1 else (), 1):
        own = judged(found, apart)[1]
        metrics |= {of_channel(name, number): own[name] for name in OF_CHANNEL}
    return (Status.DONE if metrics["tiles"] else Status.BLANK), metrics


def judged(found: dict[str, np.ndarray], apart: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """The risks of tiles by their features and by how much patches disagree, and METRICS."""
    values = risk(found, apart)
    known, structured = np.isfinite(values), found["detail"] >= STRUCTURED
    structured &= known
    counts = known.sum(), (values >= RISKY).sum(), structured.sum(), values[structured].sum()
    return values, {name: float(count) for name, count in zip(METRICS, counts, strict=True)}
