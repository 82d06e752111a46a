"""What is foreseen of the levels: maps to begin with, and of each level landmarks, estimate, stitch and compose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...geometry import Grid, triple
from ..context import given
from ..context.context import IMAGES
from ..context.ladder import LevelPlan
from ..context.pairing import REACHES, pair_grid, sought
from ..tasks import compose, estimate, given_maps, pairing, spline, steering, stitch
from . import of_images
from .foreseen import MILLION, SAMPLE_ARRAYS, Foreseen
from .workload import Amount, Span, box_spans, grown, overlaps, seen, spans, whole_chunks, with_border

CARD_SAMPLE_BYTES = 130
"""Of a GPU's memory, per sample of a map that is composed and verified; counted on a simulated device."""

PAIR_BYTES = 300
"""Of a voxel while pairs are looked for: features of both images, twice, their tensors, and positions."""

TRIED = 0.25
"""What it costs to compare a point with one place of the other image, of what it costs to bring a voxel there."""


def pairs(plan: Foreseen) -> None:
    """The pairs of points that a run looks for."""
    if not sought(plan.config):
        return
    grid, coarsest = pair_grid(plan.frames), plan.levels[max(plan.levels)]
    of_images.prepare(plan, {w: [plan.pooling(w, grid.spacing)] for w in plan.images})
    voxel, slots = grid.lattice.grid, pairing.slots(plan.outline, grid)
    rows = 8 * pairing.COLUMNS * slots
    for number, blocks in enumerate(grid.blocks):
        find, keep = pairing.stages(grid, number)
        box = spans(blocks, halo=True, scale=grid.cell)
        voxels = Amount.of(MILLION * len(plan.images) / 2, box)
        source: dict[bool, list[Amount]] = {True: [], False: []}
        for which in plan.images:
            image, chunks, itemsize, own = plan.source(which, plan.pooling(which, grid.spacing))
            source[own].append(Amount.of(itemsize, seen(box, voxel, plan.frames.mid_to(which), image, chunks)))
        # Half of the cells hold a point, and each is looked for back.
        tried = Amount.same(MILLION * TRIED * slots * (2 * REACHES[number] + 1) ** 3, blocks.counts)
        plan.add(
            find, (("patch", voxels), ("patch", tried)),
            reads=tuple(source[False]), source=tuple(source[True]), writes=(Amount.same(rows, blocks.counts),),
            memory=Amount.of(PAIR_BYTES, box).largest,
        )  # fmt: skip
        plan.keeps(
            f"{find.name}/pairs",
            (*blocks.counts, slots, pairing.COLUMNS),
            (1, 1, 1, slots, pairing.COLUMNS),
            8,
        )
        plan.phase += 1
        plan.add(keep, reads=(Amount.same(rows * len(blocks), keep.counts),))
        if number < pairing.PASSES - 1:
            shape = (3, *coarsest.lattice.grid.shape)
            for which in IMAGES:
                plan.keeps(f"{keep.name}/{which}", shape, shape, 4)
        plan.phase += 1
    most = math.prod(grid.lattice.cells)
    plan.keeps(steering.PLACE, (most, 6), (most, 6), 8)


def begin(plan: Foreseen) -> None:
    """The maps of a spline, or of another run, that this one starts from."""
    if plan.config.landmarks.spline:
        stage, shape = spline.stage(), (3, *plan.levels[max(plan.levels)].lattice.grid.shape)
        both, unit = Amount.same(2 * 4 * math.prod(shape), stage.counts), shape
        plan.add(stage, writes=(both,), memory=both.largest)
    elif plan.start_from is not None and plan.start_from.run is not None:
        blocks = given_maps.blocks(plan.start_from.run)
        both, shape, unit = Amount.of(2 * 12, spans(blocks)), (3, *blocks.cells), (3, *blocks.core)
        plan.add(given_maps.stage(plan.start_from.run), reads=(both,), writes=(both,), memory=both.largest)
    else:
        return
    for which in IMAGES:
        plan.keeps(f"{given.PLACE}/{which}", shape, unit, 4)
    plan.phase += 1


def level_stages(plan: Foreseen, level: LevelPlan) -> None:
    """All stages of a level; of its maps the first attempt, as most levels need no other."""
    coarser = plan.levels.get(level.index + 1)
    before = None if coarser is None else compose.stage_name(coarser.index, 0)
    patches = _estimate(plan, level, before)
    steered = steering.stages(plan.outline, level, before)
    for stage in steered:
        plan.add(stage)
    _stitch(plan, level, bool(steered), patches)
    _compose(plan, level, before)


def _estimate(plan: Foreseen, level: LevelPlan, before: str | None) -> int:
    """Returns the bytes of a patch."""
    blocks = level.blocks
    reads: list[Amount] = []
    source: list[Amount] = []
    patch = spans(blocks, halo=True, scale=level.cell_voxels)
    voxels = Amount.of(MILLION, patch)
    points = estimate.patch_points(level)
    patch_bytes = 4 * 4 * math.prod(points)
    stage = estimate.stage(plan.levels, level, before)
    if stage.needs:
        reads.append(_maps(patch, level.patch((0, 0, 0), blocks.cells).grid, plan.levels[level.index + 1]))
    for which in plan.volumes if plan.config.deformation else ():
        grid, chunks, itemsize, own = plan.source(which, plan.pooling(which, level.spacing))
        samples = level.patch((0, 0, 0), blocks.cells).grid
        box = seen(patch, samples, plan.frames.mid_to(which), grid, chunks)
        (source if own else reads).append(Amount.of(itemsize, box))
    if estimate.keeps_sigma(plan.outline, level):
        patch_bytes += 3 * 4 * math.prod(points)
    written = [Amount.same(patch_bytes, blocks.counts)]
    if estimate.keeps_unmatched(plan.outline, level):
        written.append(Amount.of(1, spans(blocks, scale=level.cell_voxels)))
        place = f"levels/{level.index}/{estimate.UNMATCHED}"
        plan.keeps(place, estimate.voxel_grid(level).shape, estimate.unmatched_chunk(level), 1)
    if plan.config.deformation:
        plan.add(
            stage, (("step", plan.all_channels(voxels)), ("patch", plan.all_channels(voxels))),
            reads=tuple(reads), source=tuple(source), writes=tuple(written),
            looks=level.iterations + 1 + estimate.keeps_sigma(plan.outline, level),
            memory=voxels.largest / MILLION * plan.voxel_bytes(level),
            card=voxels.largest / MILLION * plan.card_bytes(level) if plan.config.cluster.has_gpus else 0.0,
        )  # fmt: skip
    else:
        plan.add(stage, writes=tuple(written))
    plan.keeps(f"levels/{level.index}/patches", (*blocks.counts, 4, *points), (1, 1, 1, 4, *points), 4)
    if estimate.keeps_sigma(plan.outline, level):
        plan.keeps(f"levels/{level.index}/{estimate.SIGMA}", (*blocks.counts, 3, *points), (1, 1, 1, 3, *points), 4)
    return patch_bytes


def _stitch(plan: Foreseen, level: LevelPlan, steered: bool, patch_bytes: int) -> None:
    blocks, sigma = level.blocks, estimate.keeps_sigma(plan.outline, level)
    (around,) = stitch.needs(level)
    patches = box_spans(around, blocks.counts)
    owned = [(a, np.where(b == n, b + 4, b)) for (a, b), n in zip(spans(blocks), blocks.cells, strict=True)]
    blended = [overlaps(own, blocks, axis, box) for axis, own, box in zip(range(3), owned, patches, strict=True)]
    plan.add(
        stitch.stage(level, steered=steered), (("stitch", Amount(MILLION, triple(blended))),),
        reads=(Amount.of(patch_bytes, patches),), writes=(Amount.of(24 if sigma else 12, owned),),
    )  # fmt: skip
    for name in ("velocity", stitch.SIGMA) if sigma else ("velocity",):
        plan.keeps(f"levels/{level.index}/{name}", (3, *level.lattice.points), (3, *blocks.core), 4)


def _compose(plan: Foreseen, level: LevelPlan, before: str | None) -> None:
    blocks, lattice = level.blocks, level.lattice
    reach = compose.cells_reached(level)
    wide = grown(spans(blocks), reach, reach, blocks.cells)
    samples = Amount.of(MILLION * math.prod(lattice.samples), wide)
    stage = compose.stage(plan.levels, level, 0, before)
    reads = [Amount.of(12, whole_chunks(with_border(wide), blocks.core, lattice.points))]
    if len(stage.needs) > 1:  # that of the velocity, and of the maps before
        box = grown(spans(blocks, scale=lattice.samples), 0, 1, lattice.grid.shape)
        reads.append(_maps(box, lattice.grid, plan.levels[level.index + 1]))
    plan.add(
        stage, (("compose", samples),),
        reads=tuple(reads), writes=(Amount.of(24, spans(blocks, scale=lattice.samples)),),
        memory=samples.largest / MILLION * 4 * SAMPLE_ARRAYS, card=samples.largest / MILLION * CARD_SAMPLE_BYTES,
    )  # fmt: skip
    _, shard = compose.unit_of_maps(level)
    for which in IMAGES:
        plan.keeps(f"levels/{level.index}/maps/{which}", (3, *lattice.grid.shape), (3, *shard), 4)


def _maps(box: Sequence[Span], grid: Grid, coarser: LevelPlan) -> Amount:
    """Bytes of the coarser level's two maps that boxes of samples of `grid` are followed through: whole chunks."""
    chunk, _ = compose.unit_of_maps(coarser)
    return Amount.of(2 * 12, seen(box, grid, np.eye(4), coarser.lattice.grid, chunk))
