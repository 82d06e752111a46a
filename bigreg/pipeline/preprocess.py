"""Tasks: what the corrections of an image's intensities are estimated from, in one pass over one level each."""

from __future__ import annotations

import numpy as np

from .. import storage
from ..config import Config
from ..geometry import BlockGrid, Shape
from ..intensity import BINS, Bins, stripe_profile
from . import start
from .context import Context
from .flow import Stage
from .frames import Frames
from .images import LevelImage
from .ladder import ladder, pooling
from .seen import FLOOR, PLACE, Measured, stripe_segment, tiles_of
from .store import RunStore, Status

BLOCK = 128  # voxels along an axis of what is read at once


def level_of(frames: Frames, config: Config, which: str) -> Shape:
    """The level that is measured: about the finest that engines see."""
    return pooling(frames, which, np.asarray(ladder(frames, config)[-1].spacing))


def prepare(context: Context, which: str, factors: Shape) -> None:
    """Choose the bins and make the empty arrays, where that was not done."""
    store: RunStore = context.store
    settings = getattr(context.config.preprocess, which)
    url = store.path(PLACE, which)
    if Measured.read(store, which) is None:
        frames = start.provisional(*(context.volumes[w] for w in ("fixed", "moving")), context.given)
        small = context.image(which, start.affine_factors(frames, which, context.config.affine.voxels))
        bins = Bins.of(small.read((0, 0, 0), small.grid.shape))
        store.groups(PLACE)
        storage.create_group(url, {"bigreg": Measured(factors, bins).to_json()}, exist_ok=True)
    image = context.image(which, factors)
    if settings.stripes is not None:
        blocks = stripe_blocks(context, which, image)
        segment = stripe_segment(settings.stripes, image.grid)
        shape = tuple(-(-n // s) for n, s in zip(blocks.cells, segment, strict=True))
        chunks = tuple(-(-c // s) for c, s in zip(blocks.core, segment, strict=True))
        storage.create_array(storage.join(url, "stripes"), shape=shape, dtype="float32", chunks=chunks, exist_ok=True)
    if settings.by_tiles:
        counts = tiles_of(settings, image.grid).counts
        place, chunks = storage.join(url, "histograms"), (1, 1, 1, BINS)
        storage.create_array(place, shape=(*counts, BINS), dtype="uint32", chunks=chunks, exist_ok=True)


def stripe_blocks(context: Context, which: str, image: LevelImage) -> BlockGrid:
    """Blocks of whole segments."""
    segment = stripe_segment(getattr(context.config.preprocess, which).stripes, image.grid)
    core = tuple(min(s * max(1, BLOCK // s), n) for s, n in zip(segment, image.grid.shape, strict=True))
    return BlockGrid(image.grid.shape, core, (0, 0, 0))


def stages(context: Context, which: str, factors: Shape) -> list[Stage]:
    """What is to be estimated of an image, one after the other."""
    settings = getattr(context.config.preprocess, which)
    image = context.image(which, factors)
    found = []
    if settings.stripes is not None:
        counts = stripe_blocks(context, which, image).counts
        found.append(Stage(f"stages/stripes/{which}", f"{which}: stripes", counts, stripes, (which,)))
    if settings.by_tiles:
        counts = tiles_of(settings, image.grid).counts
        found.append(Stage(f"stages/histograms/{which}", f"{which}: histograms", counts, histogram, (which,)))
    return found


def stripes(context: Context, which: str, index: Shape) -> tuple[Status, dict[str, float]]:
    """The profile of the stripes of one block."""
    known = Measured.read(context.store, which)
    settings = getattr(context.config.preprocess, which).stripes
    image = context.image(which, known.factors)
    block = stripe_blocks(context, which, image)[index]
    segment = stripe_segment(settings, image.grid)
    across = "zyx".index(settings.across)
    half = max(1, round(settings.width_um / image.grid.spacing[across] / 2))
    reach = 2 * half
    start_, stop, pad = list(block.start), list(block.stop), [(0, 0)] * 3
    start_[across], stop[across] = max(0, start_[across] - reach), min(image.grid.shape[across], stop[across] + reach)
    pad[across] = (start_[across] - block.start[across] + reach, block.stop[across] + reach - stop[across])
    values = image.read(tuple(start_), tuple(stop)).astype(np.float32) - known.bins.low
    profile = stripe_profile(
        np.pad(values, pad, mode="edge"),
        ["zyx".index(a) for a in settings.along],
        across,
        2 * half + 1,
        segment,
        FLOOR * known.bins.scale,
    )
    array = context.store.array(PLACE, which, "stripes", write=True)
    array.write(tuple(a // s for a, s in zip(block.start, segment, strict=True)), profile)
    return Status.DONE, {}


def histogram(context: Context, which: str, index: Shape) -> tuple[Status, dict[str, float]]:
    """The histogram of one tile, stripes taken out."""
    known = Measured.read(context.store, which)
    settings = getattr(context.config.preprocess, which)
    image = context.seen(which, known.factors, tiles=False)
    begin, end = tiles_of(settings, image.grid).box(index)
    counts = np.zeros(BINS, np.int64)
    cells = tuple(b - a for a, b in zip(begin, end, strict=True))
    for part in BlockGrid(cells, tuple(min(BLOCK, n) for n in cells), (0, 0, 0)):
        low, high = (tuple(int(a + b) for a, b in zip(begin, edge, strict=True)) for edge in (part.start, part.stop))
        counts += known.bins.counts(image.read(low, high))
    array = context.store.array(PLACE, which, "histograms", write=True)
    array.write((*index, 0), counts[None, None, None].astype(np.uint32))
    return Status.DONE, {}
