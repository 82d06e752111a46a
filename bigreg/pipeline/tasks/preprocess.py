"""Tasks: what the corrections of an image's intensities are estimated from, in one pass over one level each."""

from __future__ import annotations

import math

import numpy as np

from ... import storage
from ...config import Config
from ...geometry import BlockGrid, Grid, Shape, triple
from ...intensity import BINS, Bins, stripe_profile
from ..context.channels import preprocess_of
from ..context.context import Context
from ..context.frames import Frames
from ..context.ladder import ladder, pooling
from ..context.lying import provisional
from ..context.seen import FLOOR, PLACE, Measured, stripe_segment, tiles_of
from ..labels import label
from ..schedule.flow import Stage
from ..store.store import RunStore, Status
from . import start

BLOCK = 128  # voxels along an axis of what is read at once


def level_of(frames: Frames, config: Config, which: str) -> Shape:
    """The level that is measured: about the finest that engines see."""
    return pooling(frames, which, np.asarray(ladder(frames, config)[-1].spacing))


def prepare(context: Context, which: str, factors: Shape) -> None:
    """Choose the bins and make the empty arrays, where that was not done."""
    store: RunStore = context.store
    url = store.path(PLACE, which)
    if Measured.read(store, which) is None:
        frames = provisional(context.volumes["fixed"], context.volumes["moving"], context.given)
        small = context.compared_image(which, start.affine_factors(frames, which, context.config.affine.voxels))
        values = small.read((0, 0, 0), small.grid.shape)
        counted = start.counted(context, which, small)
        bins = Bins.of(values if counted is None else values[counted])
        store.groups(PLACE)
        storage.create_group(url, {"bigreg": Measured(factors, bins).to_json()}, exist_ok=True)
    image = context.compared_image(which, factors)
    dtypes = {"stripes": "float32", "histograms": "uint32"}
    for what in blocks_of(context.config, which, image.grid):
        shape, chunks = array_of(context.config, which, image.grid, what)
        storage.create_array(storage.join(url, what), shape=shape, dtype=dtypes[what], chunks=chunks, exist_ok=True)


def blocks_of(config: Config, which: str, grid: Grid) -> dict[str, BlockGrid]:
    """What is to be estimated of an image, in order, and the blocks; `grid` is that of its level that is measured."""
    settings, found = preprocess_of(config, which), {}
    if settings.stripes is not None:  # blocks of whole segments, with what the median across the stripes sees
        segment = stripe_segment(settings.stripes, grid)
        long = [max(1, s / BLOCK) for s in segment]
        edge = max(1, round(BLOCK / math.prod(long) ** (1 / max(1, long.count(1)))))  # thinner where segments are long
        core = triple(min(s * max(1, edge // s), n) for s, n in zip(segment, grid.shape, strict=True))
        across = "zyx".index(settings.stripes.across)
        reach = 2 * max(1, round(settings.stripes.width_um / grid.spacing[across] / 2))
        found["stripes"] = BlockGrid(grid.shape, core, triple(reach * (a == across) for a in range(3)))
    if settings.by_tiles:
        found["histograms"] = BlockGrid(grid.shape, tiles_of(settings, grid).size, (0, 0, 0))
    return found


def array_of(config: Config, which: str, grid: Grid, what: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and chunks of what is stored, a chunk a block: a value a segment, a histogram a tile."""
    blocks = blocks_of(config, which, grid)[what]
    if what == "histograms":
        return (*blocks.counts, BINS), (1, 1, 1, BINS)
    stripes = preprocess_of(config, which).stripes
    assert stripes is not None, "no other array is of stripes"
    segment = stripe_segment(stripes, grid)
    shape, chunks = (triple(-(-n // s) for n, s in zip(v, segment, strict=True)) for v in (blocks.cells, blocks.core))
    return shape, chunks


def stages(config: Config, which: str, grid: Grid) -> list[Stage]:
    """The stages that estimate it, one after the other."""
    tasks = {"stripes": stripes, "histograms": histogram}
    return [
        Stage(f"stages/{what}/{which}", label("correct", which=which, what=what), blocks.counts, tasks[what], (which,))
        for what, blocks in blocks_of(config, which, grid).items()
    ]


def stripes(context: Context, which: str, index: Shape) -> tuple[Status, dict[str, float]]:
    """The profile of the stripes of one block."""
    known = Measured.known(context.store, which)
    settings = preprocess_of(context.config, which).stripes
    assert settings is not None, "the stage is there for them"
    image = context.compared_image(which, known.factors)
    blocks = blocks_of(context.config, which, image.grid)["stripes"]
    block, segment = blocks[index], stripe_segment(settings, image.grid)
    values = image.read(block.halo_start, block.halo_stop).astype(np.float32) - known.bins.low
    if image.weights is not None:  # what is left out is as background, which has no stripes
        values[~image.weights.counted(block.halo_start, block.halo_stop)] = 0.0
    beyond = [
        (reach - (a - low), reach - (high - b))
        for reach, low, a, b, high in zip(
            blocks.halo, block.halo_start, block.start, block.stop, block.halo_stop, strict=True
        )
    ]
    profile = stripe_profile(
        np.pad(values, beyond, mode="edge"),
        ["zyx".index(a) for a in settings.along],
        "zyx".index(settings.across),
        max(blocks.halo) + 1,
        segment,
        FLOOR * known.bins.scale,
    )
    array = context.store.array(PLACE, which, "stripes", write=True)
    array.write(tuple(a // s for a, s in zip(block.start, segment, strict=True)), profile)
    return Status.DONE, {}


def histogram(context: Context, which: str, index: Shape) -> tuple[Status, dict[str, float]]:
    """The histogram of one tile, stripes taken out."""
    known = Measured.known(context.store, which)
    settings = preprocess_of(context.config, which)
    image = context.seen(which, known.factors, tiles=False)
    begin, end = tiles_of(settings, image.grid).box(index)
    counts = np.zeros(BINS, np.int64)
    cells = triple(b - a for a, b in zip(begin, end, strict=True))
    for part in BlockGrid(cells, triple(min(BLOCK, n) for n in cells), (0, 0, 0)):
        low, high = (triple(int(a + b) for a, b in zip(begin, edge, strict=True)) for edge in (part.start, part.stop))
        values = image.read(low, high)
        counts += known.bins.counts(values if image.weights is None else values[image.weights.counted(low, high)])
    array = context.store.array(PLACE, which, "histograms", write=True)
    array.write((*index, 0), counts[None, None, None].astype(np.uint32))
    return Status.DONE, {}
