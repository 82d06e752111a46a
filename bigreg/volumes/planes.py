"""The planes of an image in the order of a file that is written in one go, and what such a file says of their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, named
from .convert import cast
from .volume import Volume

READ_BYTES = 256 << 20
"""What is read at once."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Planes:
    """An image to write: some of its (time point, channel), all combinations of them, in a dtype."""

    volume: Volume
    times: tuple[int, ...]
    channels: tuple[int, ...]
    dtype: np.dtype
    progress: Progress | None = None

    @classmethod
    def of(
        cls, volume: Volume, dtype: np.dtype, planes: Sequence[tuple[int, int]] | None, progress: Progress | None
    ) -> Planes:
        chosen = volume.planes if planes is None else planes
        times, channels = (tuple(sorted({plane[axis] for plane in chosen})) for axis in (0, 1))
        return cls(volume, times, channels, dtype, progress)

    @property
    def names(self) -> list[str]:
        """Of the channels; empty where not every one has a name."""
        found = self.volume.shown(self.channels).get("omero", {}).get("channels")
        if not isinstance(found, list) or len(found) != len(self.channels):
            return []
        names = [str(one.get("label") or "") if isinstance(one, dict) else "" for one in found]
        return names if all(names) else []

    @property
    def bytes(self) -> int:
        count = len(self.times) * len(self.channels) * int(np.prod(self.volume.shape))
        return count * self.dtype.itemsize

    def __call__(self, order: str) -> Iterator[np.ndarray]:
        """Each (y, x) plane; `order` is "tcz", "ctz" or "tzc", slowest first."""
        total = len(self.times) * len(self.channels) * self.volume.shape[0]
        for done, plane in enumerate(self._planes(order), 1):
            yield plane
            if self.progress is not None:
                self.progress(done, total, "write")

    def _planes(self, order: str) -> Iterator[np.ndarray]:
        if order == "tzc":
            for time in self.times:
                yield from self._interleaved([self.volume.plane(time, c) for c in self.channels])
            return
        pairs = [(t, c) for t in self.times for c in self.channels]
        for time, channel in pairs if order == "tcz" else sorted(pairs, key=lambda pair: pair[::-1]):
            yield from self._interleaved([self.volume.plane(time, channel)])

    def _interleaved(self, volumes: Sequence[Volume]) -> Iterator[np.ndarray]:
        depth, height, width = self.volume.shape
        plane = height * width * max(self.dtype.itemsize, self.volume.dtype.itemsize) * len(volumes)
        step = max(1, min(self.volume.chunks[0], READ_BYTES // plane))
        for first in range(0, depth, step):
            last = min(first + step, depth)
            slabs = [cast(v.read((first, 0, 0), (last, height, width)), self.dtype) for v in volumes]
            for z in range(last - first):
                yield from (np.ascontiguousarray(slab[z]) for slab in slabs)


def stored_dtype(dtype: np.dtype, known: Sequence[str], what: str) -> np.dtype:
    """What a format stores a dtype as: a mask as bytes, half floats as floats. Raises InputError where it has none."""
    wider = {"bool": "uint8", "float16": "float32"}
    dtype = np.dtype(wider.get(dtype.name, dtype)).newbyteorder("<")
    if dtype.name not in known:
        raise InputError(
            f"{what} holds no {dtype.name}; pass {named('--dtype', 'dtype')}, one of {', '.join(known)}, or write "
            ".ome.zarr"
        )
    return dtype
