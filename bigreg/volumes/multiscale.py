"""Writing OME-Zarr 0.5 images: sharded, multiscale, by many writers that each own whole shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..geometry import Grid, Shape
from ..storage import Array, create_array, create_group, join, open_array, read_attributes, write_attributes

CHUNKS = (64, 64, 64)
SHARDS = (256, 256, 256)


def create_image(
    url: str,
    grids: Sequence[Grid],
    dtype: np.dtype | str | type,
    *,
    name: str,
    chunks: Sequence[int] = CHUNKS,
    shards: Sequence[int] | None = SHARDS,
    channels: int = 0,
    labels: bool = False,
    orientation: str | None = None,
    finished: bool = True,
) -> ImageWriter:
    """Create an empty OME-Zarr 0.5 image: the arrays 0, 1, ... of the levels and the group with its metadata.

    `grids` are the levels, finest first, in one world (um). `channels` > 0 puts a c axis first. A grid that is not
    axis-aligned cannot be said in 0.5: spacing and origin are written, and the affine under "bigreg", which this
    package reads. With `finished` False the metadata waits for `ImageWriter.finish`, so that what is half written does
    not look like an image. Raises OutputError where something is there already.
    """
    axes = "czyx" if channels else "zyx"
    attributes = {"ome": _metadata(grids, axes, name, labels)}
    own: dict[str, Any] = {}
    if not grids[0].is_axis_aligned:
        own["matrix"] = [list(row) for row in grids[0].matrix]
    if orientation is not None:
        own["orientation"] = orientation
    if own:
        attributes["bigreg"] = own
    create_group(url, attributes if finished else {"bigreg-unfinished": attributes})
    for number, grid in enumerate(grids):
        chunk, shard = clipped(grid.shape, chunks, shards)
        create_array(
            join(url, str(number)),
            shape=(channels, *grid.shape) if channels else grid.shape,
            dtype=dtype,
            chunks=(1, *chunk) if channels else chunk,
            shards=None if shard is None else (1, *shard) if channels else shard,
            dimension_names=list(axes),
        )
    return ImageWriter(url)


def clipped(shape: Sequence[int], chunks: Sequence[int], shards: Sequence[int] | None) -> tuple[Shape, Shape | None]:
    """Chunks and shards that are no larger than an array of this shape needs."""
    chunk = tuple(min(int(c), int(n)) for c, n in zip(chunks, shape, strict=True))
    if shards is None:
        return chunk, None
    if any(s % c for s, c in zip(shards, chunks, strict=True)):
        raise ValueError(f"shards {tuple(shards)} must be a multiple of chunks {tuple(chunks)}")
    shard = tuple(
        min(int(s) // int(k), -(-int(n) // c)) * c for s, k, n, c in zip(shards, chunks, shape, chunk, strict=True)
    )
    return chunk, shard


class ImageWriter:
    """Writes boxes of an image that `create_image` made; any number of processes may, each on its own shards."""

    def __init__(self, url: str) -> None:
        self.url = str(url)
        self._arrays: dict[int, Array] = {}

    def __reduce__(self) -> tuple:
        return ImageWriter, (self.url,)

    def array(self, level: int) -> Array:
        if level not in self._arrays:
            self._arrays[level] = open_array(join(self.url, str(level)), write=True)
        return self._arrays[level]

    def unit(self, level: int) -> Shape:
        """The box (z, y, x) that one writer must own: a shard, or a chunk where there are none."""
        array = self.array(level)
        return (array.shards or array.chunks)[-3:]

    def write(self, level: int, start: Sequence[int], data: np.ndarray, *, channel: int = 0) -> None:
        """Store (z, y, x) data from index `start` on; it must cover whole shards (ValueError otherwise)."""
        array = self.array(level)
        if len(array.shape) == 4:
            array.write((channel, *start), data[None])
        else:
            array.write(start, data)

    def finish(self) -> None:
        """Give an image that was created unfinished its metadata: from now on it is one."""
        attributes = read_attributes(self.url)
        if "bigreg-unfinished" in attributes:
            write_attributes(self.url, attributes["bigreg-unfinished"])


def _metadata(grids: Sequence[Grid], axes: str, name: str, labels: bool) -> dict[str, Any]:
    more = [1.0] * (len(axes) - 3)
    first = np.diag([*grids[0].spacing, 1.0])
    first[:3, 3] = grids[0].origin
    datasets = []
    for number, grid in enumerate(grids):
        # Level 0 as if it were axis-aligned, the others relative to it.
        affine = first @ grids[0].inverse @ grid.affine
        scale = np.diag(affine[:3, :3])
        if not np.allclose(affine[:3, :3], np.diag(scale), atol=1e-9 * scale.max()) or (scale <= 0).any():
            raise ValueError(f"level {number} does not run along the axes of level 0")
        if grids[0].is_axis_aligned:  # without the rounding of the product
            scale, shift = grid.spacing, grid.origin
        else:
            shift = affine[:3, 3]
        transformations = [
            {"type": "scale", "scale": [*more, *map(float, scale)]},
            {"type": "translation", "translation": [*(0.0 for _ in more), *map(float, shift)]},
        ]
        datasets.append({"path": str(number), "coordinateTransformations": transformations})
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    multiscale = {
        "name": name,
        "axes": [{"name": "c", "type": "channel"}, *space] if "c" in axes else space,
        "datasets": datasets,
        "type": "mode" if labels else "mean",
    }
    metadata: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    if labels:
        metadata["image-label"] = {}
    return metadata
