"""Task: one block of a pyramid level that an image does not have, or of its mask there."""

from __future__ import annotations

from ...geometry import BlockGrid, Shape
from ..context.context import Context
from ..context.despeckled import Source
from ..context.images import Step, extent_of, fill_level, title
from ..context.masks import SourceMask
from ..schedule.flow import Stage
from ..store.store import Status


def stage(volume: Source, which: str, compared: bool, step: Step, mask: SourceMask | None) -> Stage:
    """A step of an image, as it is stored or as it is compared (which is then another `volume`)."""
    name = f"stages/prepare/{volume.name}-{'x'.join(map(str, step.factors))}"
    blocks = BlockGrid(*extent_of(volume, step, mask), (0, 0, 0))
    return Stage(name, title(volume.name, step), blocks.counts, prepare, (which, compared, step))


def prepare(context: Context, which: str, compared: bool, step: Step, index: Shape) -> tuple[Status, dict[str, float]]:
    volumes = context.compared_volumes if compared else context.volumes
    fill_level(context.store, volumes[which], step, index, context.source_mask(which))
    return Status.DONE, {}
