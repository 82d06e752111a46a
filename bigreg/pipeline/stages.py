"""The stages of a run in order, from two images to fields, warped image and report.

Each stage is idempotent and knows from the store what is done, so running all of them again after any interruption
goes on where it stopped and ends with the same bits.
"""

from __future__ import annotations

import logging
import time
from types import ModuleType
from typing import Any

import numpy as np

from .. import storage
from ..config import Config
from ..transforms import ngff
from ..volumes import ImageWriter
from .context import given, images, lying, pairing, starts
from .context.channels import preprocess_of, with_preprocess
from .context.context import Context
from .context.despeckled import Impulses
from .context.frames import Frames
from .context.ladder import LevelPlan
from .judging import confidence, likeness, noncorrespondence, page, risk_and_sigma, sigma
from .judging.status import PACE, planned_seconds_done, status_of
from .planning.foresee import foresee
from .planning.plan import stage_seconds
from .planning.rates import known_rates
from .schedule.driver import Driver, new_stamp
from .schedule.flow import Stage
from .store.store import FOUND, FOUND_LABELS, Progress, RunStore
from .tasks import (
    compose,
    despeckle,
    estimate,
    fields,
    given_maps,
    prepare,
    preprocess,
    spline,
    start,
    steering,
    stitch,
    warp,
)
from .tasks import pairing as finding

logger = logging.getLogger(__name__)
KEPT = ("frames", "intensity", "stored_intensity", "bright", FOUND_LABELS)
"""What the run keeps as attributes of what the task of the affine finds."""


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
        self._announce(self._provisional())
        self._impulses()
        self._prepare(self._affine_needs())
        self._preprocess()
        self._affine()
        self._pairs()
        self._given_maps()
        self._announce(self.context.frames)
        self._prepare(self._level_needs())
        self._levels()
        self._fields()
        self._results()
        if self.context.config.output.report:
            self._renew()  # it tells how long all that took
            self._run(page.stage())

    # ------------------------------------------------------------------------------------------------ images

    def _affine_needs(self) -> dict[str, list]:
        frames = self._provisional()
        voxels = self.context.config.affine.voxels
        return {which: [start.factors_of(self.context, frames, which, voxels)] for which in self.context.volumes}

    def _level_needs(self) -> dict[str, list]:
        levels = self.context.levels.values()
        return {which: [self.context.pooling(which, p.spacing) for p in levels] for which in self.context.volumes}

    def _prepare(self, needs: dict[str, list]) -> None:
        """Make the pyramid levels that the images do not have, and what their masks are there."""
        for which in needs:
            stored, compared = self.context.volumes[which], self.context.compared_volumes[which]
            mask = self.context.source_mask(which)
            for volume in (stored,) if compared is stored else (stored, compared):
                for step in images.preparation(volume, needs[which], mask):
                    images.create_level(self.store, volume, step, mask)
                    self._run(prepare.stage(volume, which, volume is compared, step, mask))

    # ------------------------------------------------------------------------------------------------ intensities

    def _impulses(self) -> None:
        """See whether the images have impulses, and take them out of what is compared if so."""
        self._run(*despeckle.stages(self.context.config))
        self._renew()
        for which in self.context.images:
            if self.context.compared_volumes[which] is not self.context.volumes[which]:
                impulses = Impulses.read(self.store, which)
                assert impulses is not None, "they were looked for"
                share = 100 * impulses.share
                logger.info("%s: %.2g %% of the voxels are impulses; they are not compared", which, share)

    def _preprocess(self) -> None:
        """Estimate what corrects the images as engines see them."""
        for which in self.context.images:
            if not preprocess_of(self.context.config, which).any:
                continue
            factors = preprocess.level_of(self._provisional(), self.context.config, which)
            self._prepare({which: [factors]})
            preprocess.prepare(self.context, which, factors)
            for stage in preprocess.stages(self.context.config, which, self.context.image(which, factors).grid):
                self._run(stage)

    # ------------------------------------------------------------------------------------------------ affine

    def _affine(self) -> None:
        self._run(start.stage())
        if "frames" not in self.context.attributes:
            found = storage.read_attributes(self.store.path("affine"))["bigreg"]
            self.store.update(**{key: found[key] for key in KEPT if key in found})
        if self.accept_start is not None:
            self._accept(self.accept_start)
        starts.require_believable(self.store)
        self._renew()

    def _accept(self, number: int) -> None:
        """Go on from another start than the best, and remember that a person said so."""
        chosen = starts.require_acceptable(self.store, number)
        found = storage.read_attributes(self.store.path("affine"))["bigreg"]
        frames = found["frames"]
        if number != 1:
            assert chosen is not None, "a start that may be accepted is one of the candidates"
            frames = starts.frames_from(chosen, Frames.from_json(frames)).to_json()
        self.store.update(**{starts.ACCEPTED: number, "frames": frames})

    def _provisional(self) -> Frames:
        volumes = self.context.volumes
        return lying.provisional(volumes["fixed"], volumes["moving"], self.context.given)

    def _pairs(self) -> None:
        """The pairs of points that the run finds by itself, where it is asked to."""
        if not pairing.sought(self.context.config):
            return
        grid = self.context.pair_grid
        self._prepare({w: [self.context.pooling(w, grid.spacing)] for w in self.context.images})
        for number in range(finding.PASSES):
            finding.create(self.context, number)
            for stage in finding.stages(grid, number):
                self._run(stage)
        told = finding.told(self.store, self.context.config)
        if self.context.attributes.get(FOUND) != told:
            logger.info(told["line"])
            self.store.update(**{FOUND: told})
        self._renew()

    def _given_maps(self) -> None:
        """The half-way maps of the run, or of the spline, that this one starts from."""
        if self.context.splined:
            spline.create_maps(self.store, given.PLACE, self.context.coarsest)
            self._run(spline.stage())
            return
        if self.context.given is None or self.context.given.run is None:
            return
        given_maps.create(self.store, self.context.given.run)
        self._run(given_maps.stage(self.context.given.run))

    # ------------------------------------------------------------------------------------------------ levels

    def _levels(self) -> None:
        """All levels as one stream of blocks, again and again until every level's maps are verified.

        Where cells of a level fail, its velocity is damped and it is composed anew; what finer levels have made of its
        maps by then is taken back.
        """
        levels = self.context.coarse_to_fine
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
                    self.driver.open(compose.stage(self.context.levels, level, attempt + 1, None))
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
        levels, before = self.context.levels, level.index + 1
        coarser = compose.stage_name(before, attempts[before]) if before in attempts else None
        steered = steering.stages(self.context, level, coarser)
        return [
            *steered,
            estimate.stage(levels, level, coarser),
            stitch.stage(level, steered=bool(steered)),
            compose.stage(levels, level, attempts[level.index], coarser),
        ]

    # ------------------------------------------------------------------------------------------------ fields

    def _fields(self) -> None:
        """Both fields; where they fail, every level is composed anew."""
        for direction in fields.DIRECTIONS:
            fields.create(self.context, direction)
        for attempt in range(compose.FINAL, compose.FINAL_LAST + 1):
            if attempt > compose.FINAL:
                stages, coarser = [], None
                for level in self.context.coarse_to_fine:
                    stages.append(compose.stage(self.context.levels, level, attempt, coarser))
                    coarser = stages[-1].name
                self._run(*stages)
            reach = self._reach()
            done = self._run(
                *(fields.stage(self.context, direction, attempt, reach) for direction in fields.DIRECTIONS)
            )
            if not sum(progress.metric("failing").sum() for progress in done.values()):
                break
        frames = self.context.frames
        ngff.write_scene(self.store.path("transforms"), fixed=frames.fixed, moving=frames.moving, affine=frames.affine)

    def _reach(self) -> float:
        """The largest displacement of the half-way maps, um, as measured."""
        attempts = storage.children(self.store.path("levels/0/compose"))
        last = max(int(a) for a in attempts if a.isdigit())
        return float(np.nanmax(self.store.array("levels/0/compose", last, "metrics/max_displacement")[...]))

    # ------------------------------------------------------------------------------------------------ results

    def _results(self) -> None:
        """The fields' coarser levels, the round trip and the warped image: all need the fields and no one another."""
        pyramids = [
            stage for direction in fields.DIRECTIONS for stage in fields.pyramid_stages(self.context, direction)
        ]
        output = self.context.config.output
        kept = {
            confidence: output.confidence,
            sigma: sigma.kept(self.context),
            noncorrespondence: noncorrespondence.kept(self.context),
        }
        tiled = [module for module, wanted in kept.items() if wanted]
        both = kept[confidence] and kept[sigma]
        compared = [risk_and_sigma.stage(confidence.tiles_of(self.context))] if both else []
        self._run(
            fields.check_stage(self.context), likeness.stage(), *map(self._tiles_stage, tiled), *compared,
            *self._warped_stages(), *pyramids,
        )  # fmt: skip
        for place in (*(m.PLACE for m in tiled), *(["warped"] if output.warped else [])):
            ImageWriter(self.store.path(place)).finish()

    def _tiles_stage(self, of: ModuleType) -> Stage:
        """The stage of a module such as `confidence`, and the empty image that it fills tile by tile."""
        tiles = confidence.tiles_of(self.context)
        stage: Stage = of.stage(tiles, len(self.context.pairs)) if of is confidence else of.stage(tiles)
        if not self.driver.open(stage).status.any():
            storage.remove(self.store.path(of.PLACE))  # whatever an interrupted run began to create
            of.create(self.context)
        return stage

    def _warped_stages(self) -> list[Stage]:
        stage, config, url = warp.stage(self.context), self.context.config, self.store.path("warped")
        if config.output.warped and not self.driver.open(stage).status.any():
            storage.remove(url)  # whatever an interrupted run began to create
            dtype = self.context.volumes["moving"].dtype
            warp.create(url, warp.measured_grid(self.context), dtype, config, name="moving on fixed")
        return [stage, *warp.pyramid_stages(self.context, url)]

    # ------------------------------------------------------------------------------------------------ planning

    def _announce(self, frames: Frames) -> None:
        """Tell every stage that is foreseen; how many blocks those after the affine have, once it is known."""
        config, volumes = self.context.config, self.context.volumes
        stages = foresee(frames, volumes, self._looked_for(config), self.context.given).stages
        known, told = True, []
        for each in stages:  # the affine decides which blocks the images have in common
            told.append((each.name, each.title, each.blocks if known else 0))
            known &= each.name != start.STAGE or "frames" in self.context.attributes
        self.store.update(stages=[list(each) for each in told])
        if self.driver.listener:
            self.driver.listener.plan(told)
        pace: dict[str, Any] | None = None
        if known:
            planned = stage_seconds(stages, known_rates(config)[0])
            done = planned_seconds_done(planned, status_of(self.store).stages)
            pace = {"since": time.time(), "seconds": planned, "done": done}
        self.store.update(**{PACE: pace})

    def _looked_for(self, config: Config) -> Config:
        """The configuration with despeckling where impulses were found, in place of `auto`."""
        found = {
            which: preprocess_of(config, which).model_copy(update={"despeckle": True})
            for which in self.context.images
            if self.context.compared_volumes[which] is not self.context.volumes[which]
        }
        return with_preprocess(config, found)
