"""The stages of a run in order, from two images to fields, warped image and report.

Each stage is idempotent and knows from the store what is done, so running all of them again after any interruption
goes on where it stopped and ends with the same bits.
"""

from __future__ import annotations

import math

import numpy as np

from .. import storage
from ..transforms import ngff
from ..transforms.bspline import squarings
from ..volumes import ImageWriter
from . import compose, estimate, fields, images, report, start, stitch, warp
from .context import IMAGES, Context
from .driver import Driver, Stage, new_stamp
from .ladder import LevelPlan, ladder, pooling
from .store import RunStore, Status

ONE = (1, 1, 1)


class Stages:
    """Runs everything that is not done of a run on a driver."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.store: RunStore = driver.store
        self._renew()

    def _renew(self) -> None:
        """See the run's attributes as they are now, here and on the workers."""
        self.stamp = new_stamp()
        self.context = Context(self.store.url, self.stamp)

    def _run(self, stage: Stage):
        return self.driver.run(stage, self.stamp)

    def run(self) -> None:
        for group in ("images", "levels", "transforms", "check"):
            self.store.groups(group)
        self._announce(self._planned(start.provisional(*(self.context.volumes[w] for w in IMAGES))))
        self._prepare(self._affine_needs())
        self._affine()
        self._announce(self._planned(self.context.frames))
        self._prepare(self._level_needs())
        for level in sorted(self.context.levels.values(), key=lambda p: -p.index):
            self._estimate(level)
            self._compose(level)
        self._fields()
        self._warped()
        self._run(Stage("stages/report", "report", ONE, report.write))

    # ------------------------------------------------------------------------------------------------ images

    def _affine_needs(self) -> dict[str, list]:
        frames = start.provisional(*(self.context.volumes[w] for w in IMAGES))
        voxels = self.context.config.affine.voxels
        return {which: [start.affine_factors(frames, which, voxels)] for which in IMAGES}

    def _level_needs(self) -> dict[str, list]:
        frames = self.context.frames
        levels = self.context.levels.values()
        return {which: [pooling(frames, which, np.asarray(p.spacing)) for p in levels] for which in IMAGES}

    def _prepare(self, needs: dict[str, list]) -> None:
        """Make the pyramid levels that the images do not have."""
        for which in IMAGES:
            volume = self.context.volumes[which]
            for step in images.preparation(volume, needs[which]):
                counts = images.create_level(self.store, volume, step)
                name = "x".join(map(str, step.factors))
                title = f"{which} downsampled by {name}"
                self._run(Stage(f"stages/prepare/{which}-{name}", title, counts, prepare, (which, step)))

    # ------------------------------------------------------------------------------------------------ affine

    def _affine(self) -> None:
        self._run(Stage("stages/affine", "global affine", ONE, start.start, metrics=("overlap", "similarity")))
        if "frames" not in self.context.attributes:
            found = storage.read_attributes(self.store.path("affine"))["bigreg"]
            self.store.update(frames=found["frames"], intensity=found["intensity"])
        self._renew()

    # ------------------------------------------------------------------------------------------------ levels

    def _estimate(self, level: LevelPlan) -> None:
        place = f"levels/{level.index}"
        self.store.groups(place)
        described = {"lattice": level.lattice.to_json(), "downsample": level.downsample, "spacing": list(level.spacing)}
        described["blocks"] = {"core": list(level.blocks.core), "halo": list(level.blocks.halo)}
        storage.create_group(self.store.path(place), {"bigreg": described}, exist_ok=True)
        title = f"level {level.index}"
        estimate.create(self.context, level)
        counts = level.blocks.counts
        self._run(Stage(place, f"{title}: estimate", counts, estimate.estimate, (level.index,), estimate.METRICS))
        stitch.create(self.context, level)
        self._run(Stage(f"{place}/stitch", f"{title}: stitch", counts, stitch.stitch, (level.index,), stitch.METRICS))

    def _squarings(self, level: LevelPlan) -> int:
        largest = float(np.nanmax(self.store.array("levels", level.index, "stitch/metrics/velocity")[...]))
        return squarings(largest, level.lattice.samples)

    def _compose_once(self, level: LevelPlan, attempt: int) -> np.ndarray:
        """One attempt at a level's maps; returns the number of failing cells of each block."""
        compose.create(self.context, level)
        again = f", attempt {attempt + 1}" if attempt else ""
        stage = Stage(
            f"levels/{level.index}/compose/{attempt}",
            f"level {level.index}: compose{again}",
            level.blocks.counts,
            compose.compose,
            (level.index, attempt, self._squarings(level)),
            compose.METRICS,
        )
        return self._run(stage).metric("failing")

    def _compose(self, level: LevelPlan) -> None:
        for attempt in range(compose.LAST + 1):
            if not self._compose_once(level, attempt).any():
                return
        # With this level's velocity gone the maps are the coarser level's, which passed on its own samples; on this
        # level's they may fall short of the floor by rounding, but the final fields are verified again.

    # ------------------------------------------------------------------------------------------------ fields

    def _fields(self) -> None:
        for attempt in range(compose.FINAL, compose.FINAL_LAST + 1):
            if attempt > compose.FINAL:
                for level in sorted(self.context.levels.values(), key=lambda p: -p.index):
                    self._compose_once(level, attempt)
            failing = sum(self._fill(direction, attempt) for direction in fields.DIRECTIONS)
            if not failing:
                break
        frames = self.context.frames
        ngff.write_scene(self.store.path("transforms"), fixed=frames.fixed, moving=frames.moving, affine=frames.affine)
        for direction in fields.DIRECTIONS:
            for number, grid in enumerate(fields.field_grids(self.context, direction)[1:], start=1):
                counts = fields.field_blocks(grid, self.context.config).counts
                name = f"stages/{direction}-level-{number}"
                self._run(Stage(name, f"{direction}, level {number}", counts, fields.coarsen, (direction, number)))
        counts = fields.field_blocks(fields.field_grids(self.context, "fixed_to_moving")[0], self.context.config).counts
        self._run(Stage("stages/check", "round trip", counts, fields.check, metrics=fields.CHECK_METRICS))

    def _fill(self, direction: str, attempt: int) -> int:
        fields.create(self.context, direction)
        grid = fields.field_grids(self.context, direction)[0]
        counts = fields.field_blocks(grid, self.context.config).counts
        again = attempt - compose.FINAL
        stage = Stage(
            f"stages/{direction}" + (f"-attempt-{again + 1}" if again else ""),
            direction,
            counts,
            fields.fill,
            (direction, attempt, self._reach()),
            fields.METRICS,
        )
        return int(self._run(stage).metric("failing").sum())

    def _reach(self) -> float:
        """The largest displacement of the half-way maps, um, as measured."""
        attempts = storage.children(self.store.path("levels/0/compose"))
        last = max(int(a) for a in attempts if a.isdigit())
        return float(np.nanmax(self.store.array("levels/0/compose", last, "metrics/max_displacement")[...]))

    # ------------------------------------------------------------------------------------------------ warped

    def _warped(self) -> None:
        config, fixed, moving = self.context.config, self.context.volumes["fixed"], self.context.volumes["moving"]
        grid, url = fixed.grid(), self.store.path("warped")
        counts = warp.output_blocks(grid, config).counts
        stage = Stage(
            "stages/warped", "warped image", counts, warp.measure_block, (config.output.warped,), warp.METRICS
        )
        if not config.output.warped:
            self._run(stage)
            return
        if not self.driver.open(stage).status.any():
            storage.remove(url)  # whatever an interrupted run began to create
            warp.create(url, grid, moving.dtype, config, name="moving on fixed")
        self._run(stage)
        for number in range(1, len(warp.output_grids(grid))):
            array = self.store.array("warped", number)
            counts = tuple(math.ceil(n / u) for n, u in zip(array.shape, array.shards or array.chunks, strict=True))
            name = f"stages/warped-level-{number}"
            self._run(Stage(name, f"warped image, level {number}", counts, warp.coarsen_block, (url, number, False)))
        ImageWriter(url).finish()

    # ------------------------------------------------------------------------------------------------ planning

    def _planned(self, frames) -> list[tuple[str, str, int]]:
        """(name, title, blocks) of the stages that are foreseen, in order."""
        config = self.context.config
        stages = [("stages/affine", "global affine", 1)]
        levels = ladder(frames, config)
        for level in levels:
            n = len(level.blocks)
            stages.append((f"levels/{level.index}", f"level {level.index}: estimate", n))
            stages.append((f"levels/{level.index}/stitch", f"level {level.index}: stitch", n))
            stages.append((f"levels/{level.index}/compose/0", f"level {level.index}: compose", n))
        for direction in fields.DIRECTIONS:
            grid = fields.finest_grid(frames, levels[-1].lattice, direction)
            stages.append((f"stages/{direction}", direction, len(fields.field_blocks(grid, config))))
        stages.append(("stages/check", "round trip", stages[-2][2]))
        stages.append(("stages/warped", "warped image", len(warp.output_blocks(frames.fixed, config))))
        stages.append(("stages/report", "report", 1))
        return stages

    def _announce(self, stages: list[tuple[str, str, int]]) -> None:
        self.store.update(stages=[list(s) for s in stages])
        if self.driver.listener:
            self.driver.listener.plan(stages)


def prepare(context: Context, which: str, step: images.Step, index) -> tuple[Status, dict[str, float]]:
    """Task: one block of a pyramid level that an image does not have."""
    images.fill_level(context.store, context.volumes[which], step, index)
    return Status.DONE, {}
