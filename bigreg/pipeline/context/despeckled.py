"""An image without the impulses that were measured in it, where a run takes them out before it compares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ... import storage
from ...geometry import Grid, Shape, triple
from ...intensity.impulses import COMMON, without_impulses
from ...volumes import Volume
from ...volumes.described import VolumeDescription
from ...volumes.volume import Level
from ..store.store import RunStore

METRICS = ("share", "floor")
"""What the task that looks for impulses keeps of its only block (see `despeckle`)."""


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

    def __init__(self, volume: Volume | VolumeDescription, floor: float) -> None:
        self.volume, self.floor = volume, floor
        self.name, self.dtype, self.chunks, self.shape = (
            f"{volume.name}-despeckled",
            np.dtype(volume.dtype),
            *_size(volume),
        )

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        return tuple(self.volume.levels[:1])

    def grid(self, level: int = 0) -> Grid:
        return self.levels[level].grid

    def read(self, start: Shape, stop: Shape, level: int = 0) -> np.ndarray:
        """See Volume.read; a voxel more is read on every side, so that a box is as in the whole."""
        low = triple(max(int(a) - 1, 0) for a in start)
        high = triple(min(int(b) + 1, n) for b, n in zip(stop, self.shape, strict=True))
        assert isinstance(self.volume, Volume), "what is only described has no voxels"
        values, _ = without_impulses(self.volume.read(low, high, level), self.floor)
        inner = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))
        return np.ascontiguousarray(values[inner])


Image = Volume | VolumeDescription
"""What can be planned with."""


class Voxels(Protocol):
    """What is read as a volume is, such as labels."""

    name: str
    levels: tuple[Level, ...]
    shape: Shape
    chunks: Shape

    @property
    def dtype(self) -> Any: ...
    def grid(self, level: int = 0) -> Grid: ...
    def read(self, start: Shape, stop: Shape, level: int = 0) -> np.ndarray: ...


Readable = Volume | DespeckledVolume | Voxels
Source = Volume | VolumeDescription | DespeckledVolume | Voxels


def _size(volume: Image) -> tuple[Shape, Shape]:
    return volume.chunks, volume.shape


def stage_name(which: str) -> str:
    return f"stages/impulses/{which}"
