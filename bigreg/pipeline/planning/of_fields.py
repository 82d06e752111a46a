"""What is foreseen of the results: both fields and their pyramids, the round trip, similarity, risks, warped image."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ...geometry import Grid, Shape
from ...quality.metrics import ErrorHistogram
from ...volumes.multiscale import clipped
from ..context.channels import IMAGES, side
from ..context.ladder import pooling
from ..judging import confidence, likeness, noncorrespondence, risk_and_sigma, sigma
from ..schedule.flow import ONE
from ..tasks import compose, estimate, fields, inverse, warp
from .foreseen import MILLION, SAMPLE_ARRAYS, Foreseen
from .workload import Amount, Stored, grown, read_in_pieces, seen, spans, whole_chunks

TILE_ARRAYS = 4
"""float32 per voxel of a block of tiles with its halo, while these are compared: pooled by 8 (measured)."""
VIEW_ARRAYS = 16
"""float32 arrays of the size of what is compared by one task (measured)."""


def field(plan: Foreseen, direction: str) -> None:
    """One field at full resolution."""
    frame, _ = fields.ends(direction)
    grids = fields.field_grids(plan.outline, direction)
    blocks = fields.field_blocks(grids[0], plan.config)
    finest = plan.levels[0]
    half = finest.lattice.grid
    chunk, _ = compose.unit_of_maps(finest)
    # The map is inverted around the block, of which the coarser levels say where it lies, and then the other followed.
    reads = [
        Amount.of(
            12, seen(grown(spans(blocks), low, high, grids[0].shape), grids[0], plan.frames.to_mid(frame), half, chunk)
        )
        for low, high in ((inverse.AROUND + 1, inverse.AROUND + 2), (0, 1))
    ]
    samples = Amount.of(MILLION, spans(blocks))
    plan.add(
        fields.stage(plan.outline, direction, compose.FINAL, 0.0), (("field", samples),),
        reads=tuple(reads), writes=(Amount.of(12, spans(blocks)),),
        memory=samples.largest / MILLION * 4 * SAMPLE_ARRAYS,
    )  # fmt: skip
    for number, grid in enumerate(grids):
        plan.keeps(f"transforms/{direction}/{number}", (3, *grid.shape), (3, *(plan.config.output.shard,) * 3), 4)


def field_pyramid(plan: Foreseen, direction: str) -> None:
    """A field's coarser levels."""
    grids = fields.field_grids(plan.outline, direction)
    blocks = [fields.field_blocks(grid, plan.config) for grid in grids]
    for stage, (finer, coarser) in zip(fields.pyramid_stages(plan.outline, direction), pairwise(blocks), strict=True):
        plan.coarsened(stage, finer, coarser, 12)


def check(plan: Foreseen) -> None:
    """The round trip from the fixed image."""
    grids = {d: fields.field_grids(plan.outline, d)[0] for d in fields.DIRECTIONS}
    there, back = (grids[d] for d in fields.DIRECTIONS)
    blocks = fields.field_blocks(there, plan.config)
    box, chunk = spans(blocks), (fields.chunk_of(plan.config),) * 3
    affine = plan.frames.affine
    reads = [Amount.of(12, whole_chunks(grown(box, 0, 1, there.shape), chunk, there.shape))]
    reads.append(Amount.of(12, seen(box, there, affine, back, chunk)))
    samples = Amount.of(MILLION, box)
    bins = len(ErrorHistogram().counts) + 2
    plan.add(
        fields.check_stage(plan.outline), (("check", samples),),
        reads=tuple(reads), writes=(Amount.same(8 * bins, blocks.counts),),
        memory=samples.largest / MILLION * 4 * SAMPLE_ARRAYS,
    )  # fmt: skip
    plan.arrays.append(Stored("check/*", (bins,), (bins,), 8, arrays=len(blocks)))


def similarity(plan: Foreseen) -> None:
    """How alike the images are before and after."""
    factors = likeness.display_levels(plan.outline)
    found = {which: plan.source(which, factors[side(which)]) for which in plan.images}
    channels = len(plan.images) // 2
    voxels = float(found["fixed"][0].voxels)
    slab = voxels * min(1.0, likeness.SLAB / found["fixed"][0].shape[0])
    states = len(likeness.STATES)
    source: list[Amount] = []
    reads = [Amount.same(12 * voxels * channels, ONE)]
    for which, (grid, _, itemsize, own) in found.items():
        times = 1 if side(which) == "fixed" else states
        (source if own else reads).append(Amount.same(times * itemsize * grid.voxels, ONE))
    plan.add(
        likeness.stage(), (("likeness", Amount.same(MILLION * voxels * channels, ONE)),),
        reads=tuple(reads), source=tuple(source), memory=4 * (voxels * VIEW_ARRAYS + slab * SAMPLE_ARRAYS),
    )  # fmt: skip


def risks(plan: Foreseen) -> None:
    """The risk of every tile of the fixed image."""
    finest = np.asarray(plan.levels[0].spacing)
    found = {which: plan.source(which, pooling(plan.frames, which, finest)) for which in plan.images}
    channels = len(plan.images) // 2
    grid = found["fixed"][0]
    tiles = confidence.tile_grid(grid)
    blocks = confidence.blocks_of(tiles)
    box = spans(blocks, halo=True, scale=(confidence.TILE,) * 3)
    box = [(a, np.minimum(b, n)) for (a, b), n in zip(box, grid.shape, strict=True)]
    there, chunk = fields.field_grids(plan.outline, "fixed_to_moving")[0], (fields.chunk_of(plan.config),) * 3
    source: list[Amount] = []
    reads = [read_in_pieces(12 * channels, box, grid, np.eye(4), there, chunk, warp.READ)]
    for which, (target, chunks, itemsize, own) in found.items():
        matrix = np.eye(4) if side(which) == "fixed" else plan.frames.affine
        (source if own else reads).append(read_in_pieces(itemsize, box, grid, matrix, target, chunks, warp.PIECE))
    if estimate.keeps_unmatched(plan.outline, plan.levels[0]):
        level = plan.levels[0]
        mid, own_chunks = estimate.voxel_grid(level), estimate.unmatched_chunk(level)
        matrix = plan.frames.to_mid("fixed")
        reads.append(read_in_pieces(channels, box, grid, matrix, mid, own_chunks, warp.PIECE))
    voxels = Amount.of(MILLION, box)
    piece = min(warp.PIECE**3, voxels.largest / MILLION)
    plan.add(
        confidence.stage(tiles, channels), (("warp", Amount.of(MILLION * channels, box)),),
        reads=tuple(reads), source=tuple(source), writes=(Amount.of(4, spans(blocks)),),
        memory=voxels.largest / MILLION * 4 * TILE_ARRAYS + piece * 4 * SAMPLE_ARRAYS + _read_at_once(voxels),
    )  # fmt: skip
    chunk, _ = clipped(tiles.shape, (confidence.CHUNK,) * 3, None)
    plan.keeps(f"{confidence.PLACE}/0", tiles.shape, chunk, 4)


def sigmas(plan: Foreseen) -> None:
    """The standard deviation of the map at every tile of the fixed image."""
    finest = plan.levels[0]
    grid = plan.source("fixed", pooling(plan.frames, "fixed", np.asarray(finest.spacing)))[0]
    tiles = confidence.tile_grid(grid)
    blocks = sigma.blocks_of(tiles)
    box = spans(blocks, scale=(confidence.TILE,) * 3)
    box = [(a, np.minimum(b, n)) for (a, b), n in zip(box, grid.shape, strict=True)]
    there, chunk = fields.field_grids(plan.outline, "fixed_to_moving")[0], (fields.chunk_of(plan.config),) * 3
    points = sigma.points_grid(finest)
    field = Amount.of(12, seen(box, grid, np.eye(4), there, chunk))
    voxels = Amount.of(MILLION / confidence.TILE**3, box)
    plan.add(
        sigma.stage(tiles), (("field", voxels),),
        reads=(field, Amount.of(12, seen(box, grid, plan.frames.to_mid("fixed"), points, finest.blocks.core))),
        writes=(Amount.of(12, spans(blocks)),), memory=field.largest + voxels.largest / MILLION * 4 * SAMPLE_ARRAYS,
    )  # fmt: skip
    chunk, _ = clipped(tiles.shape, (confidence.CHUNK,) * 3, None)
    plan.keeps(f"{sigma.PLACE}/0", (3, *tiles.shape), (1, *chunk), 4)


def risk_and_sigmas(plan: Foreseen) -> None:
    """Both of every tile, compared."""
    grid = plan.source("fixed", pooling(plan.frames, "fixed", np.asarray(plan.levels[0].spacing)))[0]
    tiles = confidence.tile_grid(grid)
    each = Amount.of(16, spans(confidence.blocks_of(tiles)))
    millions = Amount.of(MILLION, spans(confidence.blocks_of(tiles)))
    plan.add(risk_and_sigma.stage(tiles), (("warp", millions),), reads=(each,), memory=4 * each.largest)


def unmatched(plan: Foreseen) -> None:
    """Where the fixed image has no counterpart."""
    finest = plan.levels[0]
    grid = plan.source("fixed", pooling(plan.frames, "fixed", np.asarray(finest.spacing)))[0]
    tiles = confidence.tile_grid(grid)
    box = spans(noncorrespondence.blocks_of(tiles), scale=(confidence.TILE,) * 3)
    box = [(a, np.minimum(b, n)) for (a, b), n in zip(box, grid.shape, strict=True)]
    there, chunk = fields.field_grids(plan.outline, "fixed_to_moving")[0], (fields.chunk_of(plan.config),) * 3
    field = Amount.of(12, seen(box, grid, np.eye(4), there, chunk))
    mid = estimate.voxel_grid(finest)
    own = Amount.of(1, seen(box, grid, plan.frames.to_mid("fixed"), mid, estimate.unmatched_chunk(finest)))
    voxels = Amount.of(MILLION, box)
    plan.add(
        noncorrespondence.stage(tiles), (("warp", voxels),),
        reads=(field, own), writes=(Amount.of(1, box),),
        memory=field.largest + voxels.largest / MILLION * 4 * SAMPLE_ARRAYS,
    )  # fmt: skip
    chunk, _ = clipped(grid.shape, (noncorrespondence.CHUNK,) * 3, None)
    plan.keeps(f"{noncorrespondence.PLACE}/0", grid.shape, chunk, 1)


def _read_at_once(voxels: Amount) -> float:
    """Bytes of a field that are read for several pieces of a block."""
    return 12 * min(warp.READ**3, voxels.largest / MILLION)


def warped(plan: Foreseen) -> None:
    """The comparison at the end, and the warped image where that is wanted."""
    output, found = plan.config.output, {}
    for which in IMAGES:
        factors = warp.measured_factors(plan.frames, plan.levels[0], plan.config, which)
        found[which] = plan.source(which, factors, compared=False)
    grid = warp.measured_grid(plan.outline)
    fixed, fixed_chunks, fixed_itemsize, fixed_own = found["fixed"]
    target, moving_chunks, moving_itemsize, moving_own = found["moving"]
    blocks = warp.pyramid_blocks(grid, plan.config)
    box, itemsize = spans(blocks[0]), np.dtype(plan.volumes["moving"].dtype).itemsize

    def read(each: float, matrix: np.ndarray, target: Grid, chunks: Shape, piece: int = warp.PIECE) -> Amount:
        return read_in_pieces(each, box, grid, matrix, target, chunks, piece)

    there = fields.field_grids(plan.outline, "fixed_to_moving")[0]
    voxels = Amount.of(MILLION, box)
    piece = min(warp.PIECE**3, voxels.largest / MILLION)
    source: list[Amount] = []
    reads = [read(12, np.eye(4), there, (fields.chunk_of(plan.config),) * 3, warp.READ)]
    # The moving image is read as it is, and by the affine alone.
    (source if moving_own else reads).append(read(2 * moving_itemsize, plan.frames.affine, target, moving_chunks))
    (source if fixed_own else reads).append(read(fixed_itemsize, np.eye(4), fixed, fixed_chunks))
    plan.add(
        warp.stage(plan.outline), (("warp", voxels),),
        reads=tuple(reads), source=tuple(source),
        writes=(Amount.of(itemsize, box),) if output.warped else (),
        memory=voxels.largest / MILLION * 2 * itemsize + piece * 4 * SAMPLE_ARRAYS + _read_at_once(voxels),
    )  # fmt: skip
    if not output.warped:
        return
    for number, level in enumerate(warp.output_grids(grid)):
        _, shard = clipped(level.shape, (output.chunk,) * 3, (output.shard,) * 3)
        plan.keeps(f"warped/{number}", level.shape, shard, itemsize)
    for stage, (finer, coarser) in zip(warp.pyramid_stages(plan.outline, "warped"), pairwise(blocks), strict=True):
        plan.coarsened(stage, finer, coarser, itemsize)
