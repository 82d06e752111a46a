"""Task: whether an image has impulses."""

from __future__ import annotations

from itertools import product

from ...config import Config
from ...geometry import Shape, triple
from ...intensity.impulses import measure_impulses
from ..context.channels import images, preprocess_of
from ..context.context import Context
from ..context.despeckled import METRICS, stage_name
from ..labels import label
from ..schedule.flow import ONE, Stage
from ..store.store import Status

BOXES, EDGE = 3, 24  # what is looked at: boxes along each axis, and voxels of one along an axis


def stages(config: Config) -> list[Stage]:
    """The looks that are asked for."""
    return [
        Stage(stage_name(which), label("impulses", which=which), ONE, look, (which,), METRICS)
        for which in images(config)
        if preprocess_of(config, which).despeckle is not False
    ]


def boxes_of(shape: Shape) -> list[tuple[Shape, Shape]]:
    """Boxes spread evenly over an image (start and stop), or all of a small one."""
    starts = []
    for n in shape:
        places = range(1) if n <= EDGE * BOXES else range(BOXES)
        edge = n if len(places) == 1 else EDGE
        starts.append([(round((n - edge) * (p + 0.5) / len(places)), edge) for p in places])
    return [(triple(a for a, _ in each), triple(a + e for a, e in each)) for each in product(*starts)]


def look(context: Context, which: str, index: Shape) -> tuple[Status, dict[str, float]]:
    """Measure the impulses of an image in some boxes of its finest level."""
    volume = context.volumes[which]
    boxes = [volume.read(start, stop) for start, stop in boxes_of(volume.shape)]
    return Status.DONE, dict(zip(METRICS, measure_impulses(boxes), strict=True))
