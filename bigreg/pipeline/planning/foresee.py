"""The stages of a run before it runs: their blocks, what these read, compute and write, and every array of the store.

Mirrors `stages.py` stage by stage; shapes come from the functions that the stages themselves call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...config import Config
from ...geometry import BlockGrid, Grid, Shape
from ...quality.metrics import ErrorHistogram
from ...volumes import Volume
from ...volumes.described import VolumeDescription
from ...volumes.multiscale import CHUNKS, SHARDS, clipped
from ..context import despeckled, given, images, masks, weights
from ..context.context import IMAGES
from ..context.engines import EngineChoice, engine_choice
from ..context.frames import Frames
from ..context.ladder import LevelPlan, ladder, pooling
from ..judging import confidence, likeness
from ..schedule.flow import Need, of_finer
from ..store.inputs import Image
from ..store.store import Progress
from ..tasks import compose, despeckle, estimate, fields, preprocess, spline, start, steering, stitch, warp
from .workload import (
    Amount,
    Stored,
    Work,
    Workload,
    box_spans,
    grown,
    of_blocks,
    overlaps,
    read_in_pieces,
    seen,
    spans,
    whole_chunks,
    with_border,
)

MILLION = 1e-6
PATCH_ARRAYS = 40
"""float32 arrays of a patch's size that are alive at once at the worst moment of an estimate (measured)."""
FEATURE_ARRAYS = 4
"""And for each further channel of what a similarity compares: of both images, as they lie and warped."""
SAMPLE_ARRAYS = 60
"""float32 arrays of a block's size while a field is inverted and verified, or an image resampled."""
TILE_ARRAYS = 12
"""And of a block of tiles with its halo, while these are compared."""
INTENSITY_ARRAYS = 7
"""float32 arrays of what is read at once, while stripes or histograms are made of it (measured)."""
START_FILES = 3
"""The picture of the best starts, their list, and the group around them."""
VIEW_ARRAYS = 16
"""float32 arrays of the size of what is compared by one task (measured)."""
REPORT_FILES = 20


def foresee(
    frames: Frames, volumes: dict[str, Image], config: Config, start_from: given.GivenStart | None = None
) -> Workload:
    """All that a run would do, for frames that are known or provisional. Reads no voxel."""
    return _Foreseen(frames, volumes, config, start_from).workload()


@dataclass(eq=False)
class _Foreseen:
    """Also what `fields.field_grids` asks of a context: frames, levels, config."""

    frames: Frames
    volumes: dict[str, Image]
    config: Config
    start_from: given.GivenStart | None = None
    stages: list[Work] = field(default_factory=list)
    arrays: list[Stored] = field(default_factory=list)
    phase: int = 0

    def __post_init__(self) -> None:
        self.levels: dict[int, LevelPlan] = {p.index: p for p in ladder(self.frames, self.config)}
        self._needs: dict[EngineChoice, float] = {}
        self._made: dict[str, set[Shape]] = {}
        self._masks = {which: self._mask(which) for which in IMAGES}

    def workload(self) -> Workload:
        for which in IMAGES:
            self._keep(which)
        small = {w: start.affine_factors(self.frames, w, self.config.affine.voxels) for w in IMAGES}
        self._impulses()
        self._prepare({which: [factors] for which, factors in small.items()})
        self._preprocess()
        self._affine(small)
        self._given_maps()
        levels = self.levels.values()
        self._prepare({w: [pooling(self.frames, w, np.asarray(p.spacing)) for p in levels] for w in IMAGES})
        for index in sorted(self.levels, reverse=True):
            self._level(self.levels[index])
        self.phase += 1
        for direction in fields.DIRECTIONS:
            self._field(direction)
        self.phase += 1
        self._check()
        self._likeness()
        if self.config.output.confidence:
            self._confidence()
        self._warped()
        for direction in fields.DIRECTIONS:
            self._field_pyramid(direction)
        searched = self.config.affine.kind != "none" and (self.start_from is None or self.start_from.run is None)
        loose = START_FILES if searched else 0
        if not self.config.output.report:
            return Workload(tuple(self.stages), tuple(self.arrays), loose)
        self.phase += 1
        one = (1, 1, 1)
        self._stage("stages/report", "report", one, (("report", Amount.same(1.0, one)),))
        return Workload(tuple(self.stages), tuple(self.arrays), loose + REPORT_FILES)

    # -------------------------------------------------------------------------------------------- what all stages have

    def _stage(self, name: str, title: str, counts: Shape, does: tuple = (), metrics: int = 0, **more) -> Work:
        work = Work(name, title, counts, self.phase, does, metrics=metrics, **more)
        self.stages.append(work)
        unit = tuple(min(n, Progress.CHUNK) for n in counts)
        self.arrays.append(Stored(f"{name}/status", counts, unit, 1))
        self.arrays.append(Stored(f"{name}/worker", counts, unit, 4))
        if metrics:
            self.arrays.append(Stored(f"{name}/metrics/*", counts, unit, 4, arrays=metrics))
        else:
            self.arrays.append(Stored(f"{name}/metrics/", (), (), 0, arrays=0))
        return work

    def _array(self, place: str, shape: Sequence[int], unit: Sequence[int], itemsize: int) -> None:
        self.arrays.append(Stored(place, tuple(shape), tuple(unit), itemsize))

    # ------------------------------------------------------------------------------------------------ images

    def _mask(self, which: str) -> masks.SourceMask | None:
        """What matters of a given mask: the finest resolution that is compared."""
        choice, floats = getattr(self.config.masks, which), self.volumes[which].dtype.kind == "f"
        if choice in (masks.NONE, masks.TISSUE) or (choice == masks.FINITE and not floats):
            return None
        base = preprocess.level_of(self.frames, self.config, which)
        return masks.SourceMask(which, {"base": base, "image": None})

    def _keep(self, which: str) -> None:
        """An array in memory is written into the run first."""
        volume = self.volumes[which]
        if not isinstance(volume, Volume) or volume.spec is not None:
            return
        self.volumes[which] = kept = VolumeDescription.as_kept(volume)
        for number, level in enumerate(kept.levels):
            _, shard = clipped(level.grid.shape, CHUNKS, SHARDS)
            self._array(f"inputs/{which}.ome.zarr/{number}", level.grid.shape, shard, kept.dtype.itemsize)

    def _impulses(self) -> None:
        """A look at some boxes of each image. Whether it will find impulses is not foreseen."""
        for which in IMAGES:
            if getattr(self.config.preprocess, which).despeckle is False:
                continue
            volume, one = self.volumes[which], (1, 1, 1)
            boxes = despeckle.boxes_of(volume.shape)
            voxels = sum(math.prod(np.subtract(stop, start).tolist()) for start, stop in boxes)
            self._stage(
                despeckled.stage_name(which), f"{which}: impulses", one, metrics=len(despeckled.METRICS),
                source=(Amount.same(voxels * volume.dtype.itemsize, one),),
                memory=voxels * (2 * volume.dtype.itemsize + 8),
            )  # fmt: skip
            self.phase += 1

    def _images(self, which: str) -> list[Volume | VolumeDescription | despeckled.DespeckledVolume]:
        """An image as it is stored, and before it as it is compared, where that is another."""
        volume = self.volumes[which]
        if getattr(self.config.preprocess, which).despeckle is not True:
            return [volume]
        return [despeckled.DespeckledVolume(volume, 0.0), volume]

    def _source(self, which: str, factors: Shape, *, compared: bool = True) -> tuple[Grid, Shape, int, bool]:
        """Of an image at one resolution: grid, chunks, bytes a voxel, whether it is the image's own."""
        return self._level_of(self._images(which)[0 if compared else -1], factors, which)

    def _level_of(
        self, volume: Volume | VolumeDescription | despeckled.DespeckledVolume, factors: Shape, which: str
    ) -> tuple[Grid, Shape, int, bool]:
        level = images.own_level(volume, factors, self._masks[which])
        if level is not None:
            return volume.grid(level), volume.chunks, volume.dtype.itemsize, True
        grid = volume.grid().downsampled(factors)
        return grid, tuple(min(images.BLOCK, n) for n in grid.shape), min(volume.dtype.itemsize, 4), False

    def _prepare(self, needs: dict[str, list[Shape]]) -> None:
        for which, factors in needs.items():
            mask = self._masks[which]
            steps = [(v, step) for v in self._images(which)[::-1] for step in images.preparation(v, factors, mask)]
            for volume, step in steps:
                if step.factors in self._made.setdefault(volume.name, set()):
                    continue
                self._made[volume.name].add(step.factors)
                shape, chunks = images.extent_of(volume, step, mask)
                _, _, itemsize, _ = self._level_of(volume, step.factors, which)
                blocks = BlockGrid(shape, chunks, (0, 0, 0))
                # Of a level of the image's own only the mask is read, about a byte a voxel.
                fine, fine_chunks, fine_itemsize, own = self._level_of(volume, step.source or step.factors, which)
                ratio = tuple(f // s for f, s in zip(step.factors, step.source or step.factors, strict=True))
                box = spans(blocks, scale=ratio)
                voxels = Amount.of(MILLION, box)
                read = [Amount.of(1, box)] if mask is not None else []
                writes = [Amount.of(1, spans(blocks))] if mask is not None else []
                if step.source is not None:
                    read.append(Amount.of(fine_itemsize, whole_chunks(box, fine_chunks, fine.shape)))
                    writes.append(Amount.of(itemsize, spans(blocks)))
                    self._array("/".join(images.place(volume.name, step.factors)), shape, chunks, itemsize)
                if mask is not None:
                    self._array("/".join(weights.place(volume.name, step.factors)), shape, chunks, 1)
                self._stage(
                    f"stages/prepare/{volume.name}-{'x'.join(map(str, step.factors))}",
                    images.title(volume.name, step), blocks.counts, (("downsample", voxels),), writes=tuple(writes),
                    memory=voxels.largest / MILLION * (fine_itemsize + (6 if mask is None else 16)),
                    **{"source" if own else "reads": tuple(read)},
                )  # fmt: skip
                self.phase += 1

    def _preprocess(self) -> None:
        for which in IMAGES:
            if not getattr(self.config.preprocess, which).any:
                continue
            factors = preprocess.level_of(self.frames, self.config, which)
            self._prepare({which: [factors]})
            grid, chunks, itemsize, own = self._source(which, factors)
            for what, blocks in preprocess.blocks_of(self.config, which, grid).items():
                wide = spans(blocks, halo=True)
                shape, unit = preprocess.array_of(self.config, which, grid, what)
                held = Amount.of(MILLION, wide).largest / MILLION
                self._stage(
                    f"stages/{what}/{which}", f"{which}: {what}", blocks.counts,
                    ((what, Amount.of(MILLION, wide)),),
                    writes=(Amount.same(4 * math.prod(unit), blocks.counts),),
                    memory=4 * INTENSITY_ARRAYS * (held if what == "stripes" else min(held, preprocess.BLOCK**3)),
                    **{"source" if own else "reads": (Amount.of(itemsize, whole_chunks(wide, chunks, grid.shape)),)},
                )  # fmt: skip
                self._array(f"{preprocess.PLACE}/{which}/{what}", shape, unit, 4)
                self.phase += 1

    def _affine(self, small: dict[str, Shape]) -> None:
        one = (1, 1, 1)
        voxels, read = 0.0, {"source": [], "reads": []}
        for which, factors in small.items():
            grid, _, itemsize, own = self._source(which, factors)
            voxels += grid.voxels
            read["source" if own else "reads"].append(Amount.same(grid.voxels * itemsize, one))
            if getattr(self.config.masks, which) == masks.TISSUE:
                self._array(f"masks/{which}", grid.shape, grid.shape, 1)
        does = (("affine", Amount.same(voxels * MILLION, one)),)
        self._stage("stages/affine", "global affine", one, does, 2, **{k: tuple(v) for k, v in read.items()})
        self.phase += 1

    def _given_maps(self) -> None:
        if self.config.landmarks.spline:
            shape, one = (3, *self.levels[max(self.levels)].lattice.grid.shape), (1, 1, 1)
            both = Amount.same(2 * 4 * math.prod(shape), one)
            title = "spline through landmarks"
            self._stage("stages/start", title, one, (), len(spline.METRICS), writes=(both,), memory=both.largest)
            for which in IMAGES:
                self._array(f"{given.PLACE}/{which}", shape, shape, 4)
            self.phase += 1
            return
        if self.start_from is None or self.start_from.run is None:
            return
        blocks = given.blocks(self.start_from.run)
        both = Amount.of(2 * 12, spans(blocks))
        self._stage(
            "stages/start", "maps to start from", blocks.counts, reads=(both,), writes=(both,), memory=both.largest
        )
        for which in IMAGES:
            self._array(f"{given.PLACE}/{which}", (3, *blocks.cells), (3, *blocks.core), 4)
        self.phase += 1

    def _voxel_bytes(self, level: LevelPlan) -> float:
        """Bytes a voxel of a patch at the worst moment of an estimate; of several engines that need most."""
        chosen = engine_choice(self.config, level, len(self.levels))
        if chosen not in self._needs:
            self._needs[chosen] = max(
                4 * (PATCH_ARRAYS + FEATURE_ARRAYS * (getattr(engine, "channels", 1) - 1))
                + getattr(engine, "bytes_a_voxel", 0)
                for engine in chosen.load(level.iterations).values()
            )
        return self._needs[chosen]

    # ------------------------------------------------------------------------------------------------ levels

    def _steering(self, level: LevelPlan) -> tuple[Need, ...]:
        """Landmarks: some points of both images a level, which is nothing beside its blocks; but all wait for it."""
        if self.config.landmarks.path is None:
            return ()
        coarser = self.levels.get(level.index + 1)
        before = None if coarser is None else compose.stage_name(coarser.index, 0)
        self._stage(
            steering.stage_name(level.index), f"level {level.index}: landmarks", (1, 1, 1), (), len(steering.METRICS),
            needs=steering.needs_of(level, coarser, before),
        )  # fmt: skip
        return (steering.everywhere(level),)

    def _level(self, level: LevelPlan) -> None:
        name, title, blocks, lattice = f"levels/{level.index}", f"level {level.index}", level.blocks, level.lattice
        coarser = self.levels.get(level.index + 1)
        patch = spans(blocks, halo=True, scale=level.cell_voxels)
        voxels = Amount.of(MILLION, patch)
        points = estimate.patch_points(level)
        patch_bytes = 4 * 4 * math.prod(points)
        needs, reads, source = (), [], []
        if coarser is not None:
            needs = estimate.needs(self.levels, level, compose.stage_name(coarser.index, 0))
            reads.append(_maps(needs[0], level, coarser, images=2))
        for which in IMAGES:
            grid, chunks, itemsize, own = self._source(which, pooling(self.frames, which, np.asarray(level.spacing)))
            samples = level.patch((0, 0, 0), blocks.cells).grid
            box = seen(patch, samples, self.frames.mid_to(which), grid, chunks)
            (source if own else reads).append(Amount.of(itemsize, box))
        self._stage(
            name, f"{title}: estimate", blocks.counts, (("step", voxels), ("patch", voxels)), len(estimate.METRICS),
            needs=needs, reads=tuple(reads), source=tuple(source), writes=(Amount.same(patch_bytes, blocks.counts),),
            looks=level.iterations + 1, memory=voxels.largest / MILLION * self._voxel_bytes(level),
        )  # fmt: skip
        self._array(f"{name}/patches", (*blocks.counts, 4, *points), (1, 1, 1, 4, *points), 4)

        steered = self._steering(level)
        (around,) = stitch.needs(level)
        patches = box_spans(around, blocks.counts)
        owned = [(a, np.where(b == n, b + 4, b)) for (a, b), n in zip(spans(blocks), blocks.cells, strict=True)]
        blended = [overlaps(own, blocks, axis, box) for axis, own, box in zip(range(3), owned, patches, strict=True)]
        self._stage(
            f"{name}/stitch", f"{title}: stitch", blocks.counts, (("stitch", Amount(MILLION, tuple(blended))),),
            len(stitch.METRICS), needs=(around, *steered), reads=(Amount.of(patch_bytes, patches),),
            writes=(Amount.of(12, owned),),
        )  # fmt: skip
        self._array(f"{name}/velocity", (3, *lattice.points), (3, *blocks.core), 4)

        reach = compose.cells_reached(level)
        wide = grown(spans(blocks), reach, reach, blocks.cells)
        samples = Amount.of(MILLION * math.prod(lattice.samples), wide)
        needs = compose.needs(self.levels, level, None if coarser is None else compose.stage_name(coarser.index, 0))
        reads = [Amount.of(12, whole_chunks(with_border(wide), blocks.core, lattice.points))]
        if coarser is not None:
            reads.append(_maps(needs[1], level, coarser, images=2))
        self._stage(
            f"{name}/compose/0", f"{title}: compose", blocks.counts, (("compose", samples),), len(compose.METRICS),
            needs=needs, reads=tuple(reads), writes=(Amount.of(24, spans(blocks, scale=lattice.samples)),),
            memory=samples.largest / MILLION * 4 * SAMPLE_ARRAYS,
        )  # fmt: skip
        chunk = tuple(c * s for c, s in zip(blocks.core, lattice.samples, strict=True))
        for which in IMAGES:
            self._array(f"{name}/maps/{which}", (3, *lattice.grid.shape), (3, *chunk), 4)

    # ------------------------------------------------------------------------------------------------ fields

    def _field(self, direction: str) -> None:
        frame, _ = fields.ends(direction)
        grids = fields.field_grids(self, direction)
        blocks = fields.field_blocks(grids[0], self.config)
        finest = self.levels[0]
        half = finest.lattice.grid
        chunk = tuple(c * s for c, s in zip(finest.blocks.core, finest.lattice.samples, strict=True))
        box = seen(grown(spans(blocks), 0, 1, grids[0].shape), grids[0], self.frames.to_mid(frame), half, chunk)
        samples = Amount.of(MILLION, spans(blocks))
        self._stage(
            f"stages/{direction}", direction, blocks.counts, (("field", samples),), len(fields.METRICS),
            reads=(Amount.of(24, box),), writes=(Amount.of(12, spans(blocks)),),
            memory=samples.largest / MILLION * 4 * SAMPLE_ARRAYS,
        )  # fmt: skip
        for number, grid in enumerate(grids):
            self._array(f"transforms/{direction}/{number}", (3, *grid.shape), (3, *(self.config.output.shard,) * 3), 4)

    def _field_pyramid(self, direction: str) -> None:
        grids = fields.field_grids(self, direction)
        finer = fields.field_blocks(grids[0], self.config)
        needs = ()
        for number, grid in enumerate(grids[1:], start=1):
            blocks = fields.field_blocks(grid, self.config)
            if number > 1:
                needs = (Need(f"stages/{direction}-level-{number - 1}", of_finer(finer, blocks)),)
            self._coarsened(f"{direction}-level-{number}", f"{direction}, level {number}", finer, blocks, 12, needs)
            finer = blocks

    def _coarsened(
        self, name: str, title: str, finer: BlockGrid, blocks: BlockGrid, voxel_bytes: int, needs: tuple
    ) -> None:
        ratio = tuple(max(1, round(a / b)) for a, b in zip(finer.cells, blocks.cells, strict=True))
        box = spans(blocks, scale=ratio)
        voxels = Amount.of(MILLION * max(1, voxel_bytes // 4), box)
        self._stage(
            f"stages/{name}", title, blocks.counts, (("downsample", voxels),), needs=needs,
            reads=(Amount.of(voxel_bytes, box),), writes=(Amount.of(voxel_bytes, spans(blocks)),),
            memory=voxels.largest / MILLION * (voxel_bytes + 6),
        )  # fmt: skip

    def _check(self) -> None:
        grids = {d: fields.field_grids(self, d)[0] for d in fields.DIRECTIONS}
        there, back = (grids[d] for d in fields.DIRECTIONS)
        blocks = fields.field_blocks(there, self.config)
        box, chunk = spans(blocks), (self.config.output.chunk,) * 3
        affine = self.frames.affine
        reads = [Amount.of(12, whole_chunks(grown(box, 0, 1, there.shape), chunk, there.shape))]
        reads.append(Amount.of(12, seen(box, there, affine, back, chunk)))
        samples = Amount.of(MILLION, box)
        bins = len(ErrorHistogram().counts) + 2
        self._stage(
            "stages/check", "round trip", blocks.counts, (("check", samples),), len(fields.CHECK_METRICS),
            reads=tuple(reads), writes=(Amount.same(8 * bins, blocks.counts),),
            memory=samples.largest / MILLION * 4 * SAMPLE_ARRAYS,
        )  # fmt: skip
        self.arrays.append(Stored("check/*", (bins,), (bins,), 8, arrays=len(blocks)))

    def _likeness(self) -> None:
        factors, one = likeness.display_levels(self), (1, 1, 1)
        found = {which: self._source(which, factors[which]) for which in IMAGES}
        voxels = float(found["fixed"][0].voxels)
        slab = voxels * min(1.0, likeness.SLAB / found["fixed"][0].shape[0])
        states = len(likeness.STATES)
        source, reads = [], [Amount.same(12 * voxels, one)]
        for which, times in zip(IMAGES, (1, states), strict=True):
            grid, _, itemsize, own = found[which]
            (source if own else reads).append(Amount.same(times * itemsize * grid.voxels, one))
        self._stage(
            likeness.STAGE, "similarity", one, (("likeness", Amount.same(MILLION * voxels, one)),),
            reads=tuple(reads), source=tuple(source), memory=4 * (voxels * VIEW_ARRAYS + slab * SAMPLE_ARRAYS),
        )  # fmt: skip

    def _confidence(self) -> None:
        finest = np.asarray(self.levels[0].spacing)
        found = {which: self._source(which, pooling(self.frames, which, finest)) for which in IMAGES}
        grid = found["fixed"][0]
        tiles = confidence.tile_grid(grid)
        blocks = confidence.blocks_of(tiles)
        box = spans(blocks, halo=True, scale=(confidence.TILE,) * 3)
        box = [(a, np.minimum(b, n)) for (a, b), n in zip(box, grid.shape, strict=True)]
        there, chunk = fields.field_grids(self, "fixed_to_moving")[0], (self.config.output.chunk,) * 3
        source, reads = [], [read_in_pieces(12, box, grid, np.eye(4), there, chunk, warp.PIECE)]
        for which, matrix in zip(IMAGES, (np.eye(4), self.frames.affine), strict=True):
            target, chunks, itemsize, own = found[which]
            (source if own else reads).append(read_in_pieces(itemsize, box, grid, matrix, target, chunks, warp.PIECE))
        voxels = Amount.of(MILLION, box)
        piece = min(warp.PIECE**3, voxels.largest / MILLION)
        self._stage(
            "stages/confidence", "confidence", blocks.counts, (("warp", voxels),), len(confidence.METRICS),
            reads=tuple(reads), source=tuple(source), writes=(Amount.of(4, spans(blocks)),),
            memory=voxels.largest / MILLION * 4 * TILE_ARRAYS + piece * 4 * SAMPLE_ARRAYS,
        )  # fmt: skip
        chunk, _ = clipped(tiles.shape, (confidence.CORE,) * 3, None)
        self._array(f"{confidence.PLACE}/0", tiles.shape, chunk, 4)

    # ------------------------------------------------------------------------------------------------ warped

    def _warped(self) -> None:
        output, found = self.config.output, {}
        for which in IMAGES:
            factors = warp.measured_factors(self.frames, self.levels[0], self.config, which)
            found[which] = self._source(which, factors, compared=False)
        grid, fixed_chunks, fixed_itemsize, fixed_own = found["fixed"]
        target, moving_chunks, moving_itemsize, moving_own = found["moving"]
        blocks = warp.output_blocks(grid, self.config)
        box, itemsize = spans(blocks), self.volumes["moving"].dtype.itemsize

        def read(each: float, matrix: np.ndarray, target: Grid, chunks: Shape) -> Amount:
            return read_in_pieces(each, box, grid, matrix, target, chunks, warp.PIECE)

        there = fields.field_grids(self, "fixed_to_moving")[0]
        voxels = Amount.of(MILLION, box)
        piece = min(warp.PIECE**3, voxels.largest / MILLION)
        source, reads = [], [read(12, np.eye(4), there, (output.chunk,) * 3)]
        # The moving image is read as it is, and by the affine alone.
        (source if moving_own else reads).append(read(2 * moving_itemsize, self.frames.affine, target, moving_chunks))
        (source if fixed_own else reads).append(read(fixed_itemsize, np.eye(4), grid, fixed_chunks))
        title = "warped image" if output.warped else "comparison"
        self._stage(
            "stages/warped", title, blocks.counts, (("warp", voxels),), len(warp.METRICS),
            reads=tuple(reads), source=tuple(source),
            writes=(Amount.of(itemsize, box),) if output.warped else (),
            memory=voxels.largest / MILLION * 2 * itemsize + piece * 4 * SAMPLE_ARRAYS,
        )  # fmt: skip
        if not output.warped:
            return
        finer, name = blocks, "stages/warped"
        for number, level in enumerate(warp.output_grids(grid)):
            _, shard = clipped(level.shape, (output.chunk,) * 3, (output.shard,) * 3)
            self._array(f"warped/{number}", level.shape, shard, itemsize)
            if number:
                blocks = BlockGrid(level.shape, shard, (0, 0, 0))
                needs = (Need(name, of_finer(finer, blocks)),)
                name = f"stages/warped-level-{number}"
                title = f"warped image, level {number}"
                self._coarsened(f"warped-level-{number}", title, finer, blocks, itemsize, needs)
                finer = blocks


def _maps(need: Need, level: LevelPlan, coarser: LevelPlan, *, images: int) -> Amount:
    """Bytes of the coarser level's maps that a block reads: whole chunks, one a block of that level."""
    box = of_blocks(box_spans(need, level.blocks.counts), coarser.blocks)
    return Amount.of(images * 12 * math.prod(coarser.lattice.samples), box)
