"""The stages of a run before it runs: their blocks, what these read, compute and write, and every array of the store.

In the order of `stages.py`. What a stage is called, its blocks, what it needs and records is asked of the task itself,
as the run asks it; what it costs stands in `of_images`, `of_levels` and `of_fields`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...config import Config
from ..context.channels import is_labels
from ..context.engines import gives_sigma, matched_by
from ..context.frames import Frames
from ..context.given import GivenStart
from ..context.outline import Outline
from ..context.pairing import sought
from ..judging import page
from ..schedule.flow import ONE
from ..store.inputs import Image
from ..tasks import fields, start
from . import of_fields, of_images, of_levels
from .foreseen import Foreseen
from .workload import Amount, Workload

START_FILES = 3
"""The picture of the best starts, their list, and the group around them."""
REPORT_FILES = 20


def foresee(
    frames: Frames, volumes: Mapping[str, Image], config: Config, start_from: GivenStart | None = None
) -> Workload:
    """All that a run would do, for frames that are known or provisional. Reads no voxel."""
    plan = Foreseen(Outline(frames, config), dict(volumes), start_from)
    for which in volumes:
        of_images.keep_arrays(plan, which)
    small = {
        w: start.affine_factors(frames, w, config.affine.voxels, v.grid() if is_labels(w) else None)
        for w, v in volumes.items()
    }
    of_images.impulses(plan)
    of_images.prepare(plan, {which: [factors] for which, factors in small.items()})
    of_images.corrections(plan)
    of_images.affine(plan, small)
    of_levels.pairs(plan)
    of_levels.begin(plan)
    levels = plan.levels.values()
    of_images.prepare(plan, {w: [plan.pooling(w, p.spacing) for p in levels] for w in volumes})
    for level in plan.outline.coarse_to_fine:
        of_levels.level_stages(plan, level)
    plan.phase += 1
    for direction in fields.DIRECTIONS:
        of_fields.field(plan, direction)
    plan.phase += 1
    of_fields.check(plan)
    of_fields.similarity(plan)
    if config.output.confidence:
        of_fields.risks(plan)
    if gives_sigma(config, plan.levels[0], len(plan.levels)):
        of_fields.sigmas(plan)
        if config.output.confidence:
            of_fields.risk_and_sigmas(plan)
    if matched_by(config, plan.levels[0], len(plan.levels)) is not None:
        of_fields.unmatched(plan)
    of_fields.warped(plan)
    for direction in fields.DIRECTIONS:
        of_fields.field_pyramid(plan, direction)
    searched = config.affine.kind != "none" and (start_from is None or start_from.run is None)
    loose = (START_FILES if searched else 0) + sought(config)
    if config.output.report:
        plan.phase += 1
        plan.add(page.stage(), (("report", Amount.same(1.0, ONE)),))
        loose += REPORT_FILES
    return Workload(tuple(plan.stages), tuple(plan.arrays), loose)
