"""Tasks: the images of a run through its map, compared and stored."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from ... import storage
from ...config import Config
from ...device import halvings
from ...geometry import BlockGrid, Grid, Shape, triple
from ...similarity import local_correlation
from ...transforms.positions import Positions
from ...volumes import ImageWriter, create_image, downsample, pyramid_factors
from ...volumes.convert import cast
from ...volumes.multiscale import clipped
from ..context.context import IMAGES, Context
from ..context.frames import Frames
from ..context.images import LevelImage
from ..context.ladder import LevelPlan, pooling
from ..context.outline import Outlined
from ..labels import label
from ..schedule.flow import Need, Stage, of_finer
from ..store.store import Status
from .averaging import Averaged
from .fields import Followed

PIECE = 96  # voxels along an axis of what is resampled at once, so that memory does not depend on the shard
READ = 2 * PIECE  # of what a field is read for at once
METRICS = ("seconds", "inside", *(f"local_{k}_{when}" for when in ("affine", "after") for k in ("sum", "count")))


def output_grids(grid: Grid) -> list[Grid]:
    """The grid of a warped image and of its pyramid."""
    return [grid.downsampled(f) if max(f) > 1 else grid for f in pyramid_factors(grid)]


def output_blocks(grid: Grid, config) -> BlockGrid:
    """One block a shard."""
    return BlockGrid(grid.shape, tuple(min(config.output.shard, n) for n in grid.shape), (0, 0, 0))


def create(url: str, grid: Grid, dtype: np.dtype, config, *, name: str) -> None:
    """An empty OME-Zarr image for `measure_block` to fill; it gets its metadata when it is finished."""
    shard, chunk = config.output.shard, config.output.chunk
    create_image(
        url,
        output_grids(grid),
        dtype,
        name=name,
        chunks=(chunk,) * 3,
        shards=(shard,) * 3,
        finished=False,
    )


def pieces(start: Shape, stop: Shape, *, most: int = PIECE) -> Iterator[tuple[Shape, Shape]]:
    """Boxes of at most `most` voxels an axis that tile start .. stop; smaller where memory has run out."""
    piece = max(8, most >> halvings())
    return (
        (tuple(p), tuple(min(a + piece, b) for a, b in zip(p, stop, strict=True)))
        for p in np.stack(
            np.meshgrid(*(range(a, b, piece) for a, b in zip(start, stop, strict=True)), indexing="ij"), -1
        ).reshape(-1, 3).tolist()
    )  # fmt: skip


def followed_pieces(
    context: Context, grid: Grid, start: Shape, stop: Shape
) -> Iterator[tuple[Shape, Shape, Positions, Positions]]:
    """The pieces of start .. stop in a grid of the fixed frame, with their positions there and in moving.

    The field is read for several pieces at once: those that lie side by side share most of what is decoded.
    """
    for first, last in pieces(start, stop, most=READ):
        followed = Followed.of(context, "fixed_to_moving", grid.cropped(first, last))
        for low, high in pieces(first, last):
            here = Positions.of_grid(grid.cropped(low, high), context.device)
            yield low, high, here, followed(here)


def sampled(
    there: Positions, image: Averaged | LevelImage, grid: Grid, interpolation: str, *, inside: Grid | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Values of an image at positions, 0 outside of it, and where that is not: in `inside`, or else in its `grid`."""
    if not needs_lookup(image.dtype, interpolation):
        found, known = interpolated(there, image, grid, interpolation, inside=inside)
        return found.cpu().numpy(), known.cpu().numpy()
    shown = there.inside(inside or grid).cpu().numpy()
    if not shown.any():
        return np.zeros(shown.shape, np.float32), shown
    return np.where(shown, _nearest(there, image, grid), 0), shown


def interpolated(
    there: Positions, image: Averaged | LevelImage, grid: Grid, interpolation: str, *, inside: Grid | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as float32 and bool tensors where the positions are."""
    known = there.inside(inside or grid)
    if not bool(known.any()):
        return torch.zeros(known.shape, device=known.device), known
    return torch.where(known, there.sample(image.read, grid, interpolation)[0], 0), known


def needs_lookup(dtype: np.dtype, interpolation: str) -> bool:
    """Whether values are looked up, not interpolated: float32 holds integers up to 2^24 only."""
    return dtype.kind in "iu" and dtype.itemsize > 2 and interpolation == "nearest"


def _nearest(there: Positions, image: Averaged | LevelImage, grid: Grid) -> np.ndarray:
    index = there.index(grid)
    place = index.offset.double().cpu().numpy() + index.anchor.reshape(3, *[1] * (index.offset.ndim - 1))
    last = np.asarray(grid.shape).reshape(3, *[1] * (index.offset.ndim - 1)) - 1
    place = np.clip(np.rint(place).astype(np.int64), 0, last)
    low, high = place.reshape(3, -1).min(1), place.reshape(3, -1).max(1) + 1
    return image.read(tuple(low), tuple(high))[tuple(place - low.reshape(last.shape))]


def coarsen_block(
    context: Context, url: str, level: int, labels: bool, index: Shape
) -> tuple[Status, dict[str, float]]:
    """One shard of a coarser level of a warped image, from the level above."""
    coarsen(ImageWriter(url), level, labels, index)
    return Status.DONE, {}


def coarsen(writer: ImageWriter, level: int, labels: bool, index: Shape, *, plane: int = 0) -> None:
    """The same of one plane of any image."""
    shape = triple(writer.array(level).shape[-3:])
    block = BlockGrid(shape, writer.unit(level), (0, 0, 0))[index]
    ratio = ratio_of(triple(writer.array(level - 1).shape[-3:]), shape)
    data = np.empty(block.shape, writer.array(level).dtype)
    for start, stop in pieces(block.start, block.stop):
        fine = (tuple(a * r for a, r in zip(corner, ratio, strict=True)) for corner in (start, stop))
        box = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, block.start, strict=True))
        data[box] = downsample(writer.read(level - 1, *fine, channel=plane), ratio, labels=labels)
    writer.write(level, block.start, data, channel=plane)


def ratio_of(fine: Shape, coarse: Shape) -> Shape:
    """Which axes of a pyramid's level are half of those of the level above: 2 for those, else 1."""
    return triple(2 if a > b else 1 for a, b in zip(fine, coarse, strict=True))


def measured_factors(frames: Frames, finest: LevelPlan, config: Config, which: str) -> Shape:
    """By how much an image is downsampled for the comparison at the end.

    Not at all where it is warped as well; else as for the finest level, since nothing else would read all of it.
    """
    return (1, 1, 1) if config.output.warped else pooling(frames, which, np.asarray(finest.spacing))


def measured_grid(outline: Outlined) -> Grid:
    """Where the images are compared at the end."""
    factors = measured_factors(outline.frames, outline.levels[0], outline.config, "fixed")
    return outline.frames.fixed.downsampled(factors)


def stage(outline: Outlined) -> Stage:
    """The comparison at the end, and with it the warped image where that is wanted."""
    written = outline.config.output.warped
    counts = output_blocks(measured_grid(outline), outline.config).counts
    title = label("warped" if written else "comparison")
    return Stage("stages/warped", title, counts, measure_block, (written,), METRICS)


def pyramid_blocks(grid: Grid, config: Config) -> list[BlockGrid]:
    """The blocks of a warped image and of its coarser levels: one a shard."""
    chunk, shard = (config.output.chunk,) * 3, (config.output.shard,) * 3
    shapes = [level.shape for level in output_grids(grid)]
    coarser = (BlockGrid(shape, clipped(shape, chunk, shard)[1], (0, 0, 0)) for shape in shapes[1:])
    return [output_blocks(grid, config), *coarser]


def pyramid_stages(outline: Outlined, url: str) -> list[Stage]:
    """The coarser levels of the run's warped image at `url`; none where it is not wanted."""
    if not outline.config.output.warped:
        return []
    blocks, before, stages = pyramid_blocks(measured_grid(outline), outline.config), stage(outline).name, []
    for number in range(1, len(blocks)):
        needs = (Need(before, of_finer(*blocks[number - 1 : number + 1])),)
        before, title = f"stages/warped-level-{number}", label("warped level", level=number)
        arguments = (url, number, False)
        stages.append(Stage(before, title, blocks[number].counts, coarsen_block, arguments, needs=needs))
    return stages


def measure_block(context: Context, write: bool, index: Shape) -> tuple[Status, dict[str, float]]:
    """How alike the images are in a block, before and after the deformation; and a shard of the run's warped image.

    What a mask leaves out does not count.
    """
    begin = time.perf_counter()
    fixed, moving = (
        context.image(which, measured_factors(context.frames, context.levels[0], context.config, which))
        for which in IMAGES
    )
    grid, dtype = fixed.grid, moving.dtype
    block = output_blocks(grid, context.config)[index]
    data = np.zeros(block.shape, dtype)
    local = {"affine": np.zeros(2), "after": np.zeros(2)}
    covered, way = 0, context.config.output.interpolation
    for start, stop, here, there in followed_pieces(context, grid, block.start, block.stop):
        box = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, block.start, strict=True))
        if needs_lookup(moving.dtype, way):
            found, _ = sampled(there, moving, moving.grid, way)
            data[box] = cast(found, dtype)
            after, inside = torch.as_tensor(found.astype(np.float32), device=context.device), there.inside(moving.grid)
        else:
            after, inside = interpolated(there, moving, moving.grid, way)
            data[box] = cast(after.cpu().numpy(), dtype)
        begun = here.through(context.frames.affine)
        affine, inside_affine = interpolated(begun, moving, moving.grid, "linear")
        both = inside & inside_affine
        covered += int(inside.sum())
        for which, places in (("fixed", (here,)), ("moving", (begun, there))):
            if (tissue := context.mask(which)) is not None:
                for place in places:
                    both &= tissue.at(place)
        if not bool(both.any()):
            continue
        target = torch.as_tensor(fixed.read(start, stop).astype(np.float32), device=context.device)
        f = context.scaled("fixed", target, stored=True)
        keep = both & (f > TEXTURED)
        for when, values in (("affine", affine), ("after", after)):
            m = context.scaled("moving", values, stored=True)
            cc = local_correlation(f, m, both.float(), radius=4)
            local[when] += float(cc[keep].sum()), float(keep.sum())
    if write:
        storage.open_array(context.store.path("warped", 0), write=True).write(block.start, data)
    metrics = {"inside": covered / data.size, "seconds": time.perf_counter() - begin}
    for when in ("affine", "after"):
        metrics |= {f"local_sum_{when}": float(local[when][0]), f"local_count_{when}": float(local[when][1])}
    return Status.DONE, metrics


TEXTURED = 0.1
"""Local correlation is averaged where the scaled fixed image is brighter than this: in background it is noise."""
