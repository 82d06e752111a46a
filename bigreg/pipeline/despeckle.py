"""Task: whether an image has impulses; and the image without them, where a run takes them out before it compares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from .. import storage
from ..geometry import Grid, Shape
from ..intensity.impulses import COMMON, measure_impulses, without_impulses
from ..volumes import Volume
from .flow import Stage
from .store import RunStore, Status

if TYPE_CHECKING:
    from .context import Context

BOXES, EDGE = 3, 24  # what is looked at: boxes along each axis, and voxels of one along an axis
METRICS = ("share", "floor")


@dataclass(frozen=True)
class Impulses:
    """What was measured of an image: the share of its voxels that are impulses, and the size of the least of them."""

    share: float
    floor: float

    @classmethod
    def read(cls, store: RunStore, which: str) -> Impulses | None:
        """What a run has; None before, and in a run that does not look."""
        place = f"{stage_name(which)}/metrics"
        if not storage.exists(store.path(place, "floor")):
            return None
        share, floor = (float(store.array(place, name)[...].ravel()[0]) for name in METRICS)
        return cls(share, floor) if np.isfinite(floor) else None

    def taken_out(self, setting: bool | str) -> bool:
        """Whether they are, for `preprocess.*.despeckle`."""
        return self.share >= COMMON if setting == "auto" else bool(setting)


class DespeckledVolume:
    """A volume's finest level without its impulses: coarser levels are made of it, not of those in the file."""

    def __init__(self, volume: Volume, floor: float) -> None:
        self.volume, self.floor = volume, floor
        self.name, self.dtype, self.chunks, self.shape = f"{volume.name}-despeckled", volume.dtype, *_size(volume)

    @cached_property
    def levels(self) -> tuple:
        return tuple(self.volume.levels[:1])

    def grid(self, level: int = 0) -> Grid:
        return self.levels[level].grid

    def read(self, start: Shape, stop: Shape, level: int = 0) -> np.ndarray:
        """See Volume.read; a voxel more is read on every side, so that a box is as in the whole."""
        low = tuple(max(int(a) - 1, 0) for a in start)
        high = tuple(min(int(b) + 1, n) for b, n in zip(stop, self.shape, strict=True))
        values, _ = without_impulses(self.volume.read(low, high, level), self.floor)
        inner = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))
        return np.ascontiguousarray(values[inner])


def _size(volume: Volume) -> tuple[Shape, Shape]:
    return volume.chunks, volume.shape


def stage_name(which: str) -> str:
    return f"stages/impulses/{which}"


def stages(context: Context) -> list[Stage]:
    """The looks that are asked for."""
    return [
        Stage(stage_name(which), f"{which}: impulses", (1, 1, 1), look, (which,), METRICS)
        for which in ("fixed", "moving")
        if getattr(context.config.preprocess, which).despeckle is not False
    ]


def boxes_of(shape: Shape) -> list[tuple[Shape, Shape]]:
    """Boxes spread evenly over an image (start and stop), or all of a small one."""
    starts = []
    for n in shape:
        places = range(1) if n <= EDGE * BOXES else range(BOXES)
        edge = n if len(places) == 1 else EDGE
        starts.append([(round((n - edge) * (p + 0.5) / len(places)), edge) for p in places])
    return [(tuple(a for a, _ in each), tuple(a + e for a, e in each)) for each in product(*starts)]


def look(context: Context, which: str, index: Shape) -> tuple[Status, dict[str, float]]:
    """Measure the impulses of an image in some boxes of its finest level."""
    volume = context.volumes[which]
    boxes = [volume.read(start, stop) for start, stop in boxes_of(volume.shape)]
    return Status.DONE, dict(zip(METRICS, measure_impulses(boxes), strict=True))
