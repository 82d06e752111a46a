"""The stages of a run in order, from two images to fields, warped image and report.

Each stage is idempotent and knows from the store what is done, so running all of them again after any interruption
goes on where it stopped and ends with the same bits.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from .. import storage
from ..geometry import BlockGrid, Grid
from ..transforms import ngff
from ..volumes import ImageWriter
from .context import despeckled, given, images, lying, starts
from .context.context import IMAGES, Context
from .context.frames import Frames
from .context.ladder import LevelPlan, ladder, pooling
from .judging import confidence, likeness
from .schedule.driver import Driver, new_stamp
from .schedule.flow import Need, Stage, of_finer
from .store.store import Progress, RunStore, Status
from .tasks import compose, despeckle, estimate, fields, preprocess, spline, start, steering, stitch, warp

logger = logging.getLogger(__name__)
ONE = (1, 1, 1)


class Stages:
    """Runs everything that is not done of a run on a driver. `accept_start`: the number of a start that is right."""

    def __init__(self, driver: Driver, accept_start: int | None = None) -> None:
        self.driver = driver
        self.accept_start = accept_start
        self.store: RunStore = driver.store
        self._renew()

    def _renew(self) -> None:
        """See the run's attributes as they are now, here and on the workers."""
        self.stamp = new_stamp()
        self.context = Context(self.store.url, self.stamp)

    def _run(self, *stages: Stage) -> dict[str, Progress]:
        return self.driver.run(*stages, stamp=self.stamp)

    def run(self) -> None:
        for group in ("images", "levels", "transforms", "check"):
            self.store.groups(group)
        self._announce(self._planned(self._provisional()))
        self._impulses()
        self._prepare(self._affine_needs())
        self._preprocess()
        self._affine()
        self._given_maps()
        self._announce(self._planned(self.context.frames))
        self._prepare(self._level_needs())
        self._levels()
        self._fields()
        self._results()
        if self.context.config.output.report:
            self._renew()  # it tells how long all that took
            self._run(Stage("stages/report", "report", ONE, write_report))

    # ------------------------------------------------------------------------------------------------ images

    def _affine_needs(self) -> dict[str, list]:
        frames = self._provisional()
        voxels = self.context.config.affine.voxels
        return {which: [start.affine_factors(frames, which, voxels)] for which in IMAGES}

    def _level_needs(self) -> dict[str, list]:
        frames = self.context.frames
        levels = self.context.levels.values()
        return {which: [pooling(frames, which, np.asarray(p.spacing)) for p in levels] for which in IMAGES}

    def _prepare(self, needs: dict[str, list]) -> None:
        """Make the pyramid levels that the images do not have, and what their masks are there."""
        for which in needs:
            stored, compared = self.context.volumes[which], self.context.compared_volumes[which]
            mask = self.context.source_mask(which)
            for volume in (stored,) if compared is stored else (stored, compared):
                for step in images.preparation(volume, needs[which], mask):
                    counts = images.create_level(self.store, volume, step, mask)
                    name = "x".join(map(str, step.factors))
                    arguments = (which, volume is compared, step)
                    place = f"stages/prepare/{volume.name}-{name}"
                    self._run(Stage(place, images.title(volume.name, step), counts, prepare, arguments))

    # ------------------------------------------------------------------------------------------------ intensities

    def _impulses(self) -> None:
        """See whether the images have impulses, and take them out of what is compared if so."""
        self._run(*despeckle.stages(self.context))
        self._renew()
        for which in IMAGES:
            if self.context.compared_volumes[which] is not self.context.volumes[which]:
                share = 100 * despeckled.Impulses.read(self.store, which).share
                logger.info("%s: %.2g %% of the voxels are impulses; they are not compared", which, share)

    def _preprocess(self) -> None:
        """Estimate what corrects the images as engines see them."""
        for which in IMAGES:
            if not getattr(self.context.config.preprocess, which).any:
                continue
            factors = preprocess.level_of(self._provisional(), self.context.config, which)
            self._prepare({which: [factors]})
            preprocess.prepare(self.context, which, factors)
            for stage in preprocess.stages(self.context.config, which, self.context.image(which, factors).grid):
                self._run(stage)

    # ------------------------------------------------------------------------------------------------ affine

    def _affine(self) -> None:
        self._run(Stage("stages/affine", "global affine", ONE, start.start, metrics=("overlap", "similarity")))
        if "frames" not in self.context.attributes:
            found = storage.read_attributes(self.store.path("affine"))["bigreg"]
            self.store.update(
                **{key: found[key] for key in ("frames", "intensity", "stored_intensity", "bright") if key in found}
            )
        if self.accept_start is not None:
            self._accept(self.accept_start)
        starts.require_believable(self.store)
        self._renew()

    def _accept(self, number: int) -> None:
        """Go on from another start than the best, and remember that a person said so."""
        chosen = starts.require_acceptable(self.store, number)
        found = storage.read_attributes(self.store.path("affine"))["bigreg"]
        frames = (
            found["frames"] if number == 1 else starts.frames_from(chosen, Frames.from_json(found["frames"])).to_json()
        )
        self.store.update(**{starts.ACCEPTED: number, "frames": frames})

    def _provisional(self) -> Frames:
        return lying.provisional(*(self.context.volumes[w] for w in IMAGES), self.context.given)

    def _given_maps(self) -> None:
        """The half-way maps of the run, or of the spline, that this one starts from."""
        if self.context.config.landmarks.spline:
            spline.create(self.store, self.context.coarsest)
            self._run(Stage("stages/start", "spline through landmarks", ONE, spline.begin, metrics=spline.METRICS))
            return
        if self.context.given is None or self.context.given.run is None:
            return
        given.create(self.store, self.context.given.run)
        counts = given.blocks(self.context.given.run).counts
        self._run(Stage("stages/start", "maps to start from", counts, given.copy))

    # ------------------------------------------------------------------------------------------------ levels

    def _coarse_to_fine(self) -> list[LevelPlan]:
        return sorted(self.context.levels.values(), key=lambda p: -p.index)

    def _levels(self) -> None:
        """All levels as one stream of blocks, again and again until every level's maps are verified.

        Where cells of a level fail, its velocity is damped and it is composed anew; what finer levels have made of its
        maps by then is taken back.
        """
        levels = self._coarse_to_fine()
        for level in levels:
            self._create_level(level)
        amended = True
        while amended:
            attempts = {level.index: self._attempt(level) for level in levels}
            stages = [stage for level in levels for stage in self._level_stages(level, attempts)]
            done = self._run(*stages)
            amended = False
            for place, level in enumerate(levels):
                attempt = attempts[level.index]
                failing = done[compose.stage_name(level.index, attempt)].metric("failing")
                if attempt < compose.LAST and np.nansum(failing) > 0:
                    for finer in levels[place + 1 :]:
                        self._withdraw(finer)
                    self._renew()
                    self.driver.open(self._compose_stage(level, attempt + 1, None))
                    amended = True
                    break
        # With a level's velocity gone its maps are the coarser level's, which passed on its own samples; on this
        # level's they may fall short of the floor by rounding, but the final fields are verified again.

    def _create_level(self, level: LevelPlan) -> None:
        place = f"levels/{level.index}"
        self.store.groups(place)
        described = {"lattice": level.lattice.to_json(), "downsample": level.downsample, "spacing": list(level.spacing)}
        described["blocks"] = {"core": list(level.blocks.core), "halo": list(level.blocks.halo)}
        storage.create_group(self.store.path(place), {"bigreg": described}, exist_ok=True)
        for task in (estimate, stitch, compose, steering):
            task.create(self.context, level)

    def _withdraw(self, level: LevelPlan) -> None:
        storage.remove(self.store.path("levels", level.index))
        self._create_level(level)

    def _attempt(self, level: LevelPlan) -> int:
        """The number of the last attempt at a level's maps that was begun."""
        begun = storage.children(self.store.path("levels", level.index, "compose"))
        return max((int(a) for a in begun if a.isdigit() and int(a) <= compose.LAST), default=0)

    def _level_stages(self, level: LevelPlan, attempts: dict[int, int]) -> list[Stage]:
        name, title, counts = f"levels/{level.index}", f"level {level.index}", level.blocks.counts
        before = level.index + 1
        coarser = compose.stage_name(before, attempts[before]) if before in attempts else None
        seen = estimate.needs(self.context.levels, level, coarser)
        steered = self._steering_stages(level, coarser)
        return [
            *steered,
            Stage(
                name, f"{title}: estimate", counts, estimate.estimate, (level.index,), estimate.METRICS, seen,
                optional=True,
            ),
            Stage(
                f"{name}/stitch", f"{title}: stitch", counts, stitch.stitch, (level.index,), stitch.METRICS,
                (*stitch.needs(level), *(steering.everywhere(level) for _ in steered)),
            ),
            self._compose_stage(level, attempts[level.index], coarser),
        ]  # fmt: skip

    def _steering_stages(self, level: LevelPlan, coarser: str | None) -> list[Stage]:
        if self.context.config.landmarks.path is None:
            return []
        seen = steering.needs_of(level, self.context.levels.get(level.index + 1), coarser)
        name, title = steering.stage_name(level.index), f"level {level.index}: landmarks"
        return [Stage(name, title, ONE, steering.steer, (level.index,), steering.METRICS, seen)]

    def _compose_stage(self, level: LevelPlan, attempt: int, coarser: str | None) -> Stage:
        again = f", attempt {attempt + 1}" if attempt else ""
        return Stage(
            compose.stage_name(level.index, attempt),
            f"level {level.index}: compose{again}",
            level.blocks.counts,
            compose.compose,
            (level.index, attempt),
            compose.METRICS,
            compose.needs(self.context.levels, level, coarser),
            halts="failing" if attempt < compose.LAST else None,
        )

    # ------------------------------------------------------------------------------------------------ fields

    def _fields(self) -> None:
        """Both fields; where they fail, every level is composed anew."""
        for direction in fields.DIRECTIONS:
            fields.create(self.context, direction)
        for attempt in range(compose.FINAL, compose.FINAL_LAST + 1):
            if attempt > compose.FINAL:
                stages, coarser = [], None
                for level in self._coarse_to_fine():
                    stage = dataclasses.replace(self._compose_stage(level, attempt, coarser), halts=None)
                    stages, coarser = [*stages, stage], stage.name
                self._run(*stages)
            # The inverse at a point is looked for as far away as the maps reach anywhere.
            done = self._run(*(self._field_stage(direction, attempt) for direction in fields.DIRECTIONS))
            if not sum(progress.metric("failing").sum() for progress in done.values()):
                break
        frames = self.context.frames
        ngff.write_scene(self.store.path("transforms"), fixed=frames.fixed, moving=frames.moving, affine=frames.affine)

    def _field_stage(self, direction: str, attempt: int) -> Stage:
        grid = fields.field_grids(self.context, direction)[0]
        again = attempt - compose.FINAL
        return Stage(
            f"stages/{direction}" + (f"-attempt-{again + 1}" if again else ""),
            direction,
            fields.field_blocks(grid, self.context.config).counts,
            fields.fill,
            (direction, attempt, self._reach()),
            fields.METRICS,
        )

    def _reach(self) -> float:
        """The largest displacement of the half-way maps, um, as measured."""
        attempts = storage.children(self.store.path("levels/0/compose"))
        last = max(int(a) for a in attempts if a.isdigit())
        return float(np.nanmax(self.store.array("levels/0/compose", last, "metrics/max_displacement")[...]))

    # ------------------------------------------------------------------------------------------------ results

    def _results(self) -> None:
        """The fields' coarser levels, the round trip and the warped image: all need the fields and no one another."""
        counts = fields.field_blocks(fields.field_grids(self.context, "fixed_to_moving")[0], self.context.config).counts
        check = Stage("stages/check", "round trip", counts, fields.check, metrics=fields.CHECK_METRICS)
        alike = Stage(likeness.STAGE, "similarity", ONE, likeness.measure)
        pyramids = [stage for direction in fields.DIRECTIONS for stage in self._field_pyramid(direction)]
        self._run(check, alike, *self._confidence_stages(), *self._warped_stages(), *pyramids)
        output = self.context.config.output
        for place, written in ((confidence.PLACE, output.confidence), ("warped", output.warped)):
            if written:
                ImageWriter(self.store.path(place)).finish()

    def _confidence_stages(self) -> list[Stage]:
        if not self.context.config.output.confidence:
            return []
        counts = confidence.blocks_of(confidence.tiles_of(self.context)).counts
        stage = Stage("stages/confidence", "confidence", counts, confidence.measure, metrics=confidence.METRICS)
        if not self.driver.open(stage).status.any():
            storage.remove(self.store.path(confidence.PLACE))  # whatever an interrupted run began to create
            confidence.create(self.context)
        return [stage]

    def _field_pyramid(self, direction: str) -> list[Stage]:
        blocks = [fields.field_blocks(g, self.context.config) for g in fields.field_grids(self.context, direction)]
        stages = []
        for number in range(1, len(blocks)):
            name, title = f"stages/{direction}-level-{number}", f"{direction}, level {number}"
            needs = (Need(stages[-1].name, of_finer(*blocks[number - 1 : number + 1])),) if stages else ()
            arguments = (direction, number)
            stages.append(Stage(name, title, blocks[number].counts, fields.coarsen, arguments, needs=needs))
        return stages

    def _warped_stages(self) -> list[Stage]:
        config, moving = self.context.config, self.context.volumes["moving"]
        grid, url = self._measured(self.context.frames), self.store.path("warped")
        counts = warp.output_blocks(grid, config).counts
        title = "warped image" if config.output.warped else "comparison"
        stages = [Stage("stages/warped", title, counts, warp.measure_block, (config.output.warped,), warp.METRICS)]
        if not config.output.warped:
            return stages
        if not self.driver.open(stages[0]).status.any():
            storage.remove(url)  # whatever an interrupted run began to create
            warp.create(url, grid, moving.dtype, config, name="moving on fixed")
        finer = warp.output_blocks(grid, config)
        for number in range(1, len(warp.output_grids(grid))):
            array = self.store.array("warped", number)
            blocks = BlockGrid(array.shape, array.shards or array.chunks, (0, 0, 0))
            needs = (Need(stages[-1].name, of_finer(finer, blocks)),)
            name, title = f"stages/warped-level-{number}", f"warped image, level {number}"
            stages.append(Stage(name, title, blocks.counts, warp.coarsen_block, (url, number, False), needs=needs))
            finer = blocks
        return stages

    def _measured(self, frames: Frames) -> Grid:
        """Where the images are compared at the end."""
        finest = ladder(frames, self.context.config)[-1]
        return frames.fixed.downsampled(warp.measured_factors(frames, finest, self.context.config, "fixed"))

    # ------------------------------------------------------------------------------------------------ planning

    def _planned(self, frames) -> list[tuple[str, str, int]]:
        """(name, title, blocks) of the stages that are foreseen, in order."""
        config = self.context.config
        stages = [(s.name, s.title, s.blocks) for s in despeckle.stages(self.context)]
        for which in IMAGES:
            grid = images.grid_of(self.context.volumes[which], preprocess.level_of(self._provisional(), config, which))
            stages += [(s.name, s.title, s.blocks) for s in preprocess.stages(config, which, grid)]
        stages.append(("stages/affine", "global affine", 1))
        if config.landmarks.spline:
            stages.append(("stages/start", "spline through landmarks", 1))
        elif self.context.given is not None and self.context.given.run is not None:
            stages.append(("stages/start", "maps to start from", len(given.blocks(self.context.given.run))))
        levels = ladder(frames, config)
        for level in levels:
            n = len(level.blocks)
            if config.landmarks.path is not None:
                stages.append((steering.stage_name(level.index), f"level {level.index}: landmarks", 1))
            stages.append((f"levels/{level.index}", f"level {level.index}: estimate", n))
            stages.append((f"levels/{level.index}/stitch", f"level {level.index}: stitch", n))
            stages.append((f"levels/{level.index}/compose/0", f"level {level.index}: compose", n))
        for direction in fields.DIRECTIONS:
            grid = fields.finest_grid(frames, levels[-1].lattice, direction)
            stages.append((f"stages/{direction}", direction, len(fields.field_blocks(grid, config))))
        stages.append(("stages/check", "round trip", stages[-2][2]))
        stages.append((likeness.STAGE, "similarity", 1))
        if config.output.confidence:
            finest = frames.fixed.downsampled(pooling(frames, "fixed", np.asarray(levels[-1].spacing)))
            stages.append(("stages/confidence", "confidence", len(confidence.blocks_of(confidence.tile_grid(finest)))))
        title = "warped image" if config.output.warped else "comparison"
        stages.append(("stages/warped", title, len(warp.output_blocks(self._measured(frames), config))))
        if config.output.report:
            stages.append(("stages/report", "report", 1))
        return stages

    def _announce(self, stages: list[tuple[str, str, int]]) -> None:
        self.store.update(stages=[list(s) for s in stages])
        if self.driver.listener:
            self.driver.listener.plan(stages)


def prepare(context: Context, which: str, compared: bool, step: images.Step, index) -> tuple[Status, dict[str, float]]:
    """Task: one block of a pyramid level that an image, as stored or compared, does not have, or of its mask there."""
    volumes = context.compared_volumes if compared else context.volumes
    images.fill_level(context.store, volumes[which], step, index, context.source_mask(which))
    return Status.DONE, {}


def write_report(context: Context, index) -> tuple[Status, dict[str, float]]:
    """Task: the report. What draws it is loaded here: every worker and every command would wait for it."""
    from .judging.report import write

    return write(context, index)
