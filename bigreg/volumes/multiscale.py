"""Writing OME-Zarr 0.5 images: sharded, multiscale, by many writers that each own whole shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np

from ..geometry import Grid, Shape, triple
from ..storage import Array, create_array, create_group, join, open_array, read_attributes, write_attributes
from .ome_metadata import UNFINISHED
from .units import implausible

CHUNKS = (64, 64, 64)
SHARDS = (256, 256, 256)
COLOURS = ("FF00FF", "00FF00", "00FFFF", "FFFF00", "FFFFFF")
"""RRGGBB of channels that have none: pairs of them are told apart by the colour-blind too."""


def create_image(
    url: str,
    grids: Sequence[Grid],
    dtype: np.dtype | str | type,
    *,
    name: str,
    chunks: Sequence[int] = CHUNKS,
    shards: Sequence[int] | None = SHARDS,
    channels: int = 0,
    times: int = 0,
    labels: bool = False,
    orientation: str | None = None,
    display: Mapping[str, Any] | None = None,
    finished: bool = True,
    exist_ok: bool = False,
) -> ImageWriter:
    """Create an empty OME-Zarr 0.5 image: the arrays 0, 1, ... of the levels and the group with its metadata.

    `grids` are the levels, finest first, in one world (um). `channels` > 0 puts a c axis first, `times` > 0 a t axis
    before it. `display` is what another image's metadata said beside its place (see StoredImage). A grid that is not
    axis-aligned cannot be said in 0.5: spacing and origin are written, and the affine under "bigreg", which this
    package reads. With `finished` False the metadata waits for `ImageWriter.finish`, so that what is half written does
    not look like an image. Raises OutputError where something is there already, with `exist_ok` unless it is this very
    image, unfinished.
    """
    lead = tuple(n for n in (times, channels) if n)
    axes = ("t" if times else "") + ("c" if channels else "") + "zyx"
    attributes = {"ome": _metadata(grids, axes, name, labels, display or {})}
    own: dict[str, Any] = {}
    if not grids[0].is_axis_aligned:
        own["matrix"] = [list(row) for row in grids[0].matrix]
    if orientation is not None:
        own["orientation"] = orientation
    if implausible(grids[0].spacing):
        own["confirmed"] = True  # whoever wrote this was asked
    if own:
        attributes["bigreg"] = own
    create_group(url, attributes if finished else {UNFINISHED: attributes}, exist_ok=exist_ok)
    for number, grid in enumerate(grids):
        chunk, shard = clipped(grid.shape, chunks, shards)
        create_array(
            join(url, str(number)),
            shape=(*lead, *grid.shape),
            dtype=dtype,
            chunks=(*(1 for _ in lead), *chunk),
            shards=None if shard is None else (*(1 for _ in lead), *shard),
            dimension_names=list(axes),
            exist_ok=exist_ok,
        )
    return ImageWriter(url)


@overload
def clipped(shape: Sequence[int], chunks: Sequence[int], shards: Sequence[int]) -> tuple[Shape, Shape]: ...
@overload
def clipped(shape: Sequence[int], chunks: Sequence[int], shards: None) -> tuple[Shape, None]: ...
@overload
def clipped(
    shape: Sequence[int], chunks: Sequence[int], shards: Sequence[int] | None
) -> tuple[Shape, Shape | None]: ...
def clipped(shape: Sequence[int], chunks: Sequence[int], shards: Sequence[int] | None) -> tuple[Shape, Shape | None]:
    """Chunks and shards that are no larger than an array of this shape needs."""
    chunk = triple(min(int(c), int(n)) for c, n in zip(chunks, shape, strict=True))
    if shards is None:
        return chunk, None
    if any(s % c for s, c in zip(shards, chunks, strict=True)):
        raise ValueError(f"shards {tuple(shards)} must be a multiple of chunks {tuple(chunks)}")
    shard = triple(
        min(int(s) // int(k), -(-int(n) // c)) * c for s, k, n, c in zip(shards, chunks, shape, chunk, strict=True)
    )
    return chunk, shard


class ImageWriter:
    """Writes boxes of an image that `create_image` made; any number of processes may, each on its own shards."""

    def __init__(self, url: str) -> None:
        self.url = str(url)
        self._arrays: dict[int, Array] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageWriter, (self.url,)

    def array(self, level: int) -> Array:
        if level not in self._arrays:
            self._arrays[level] = open_array(join(self.url, str(level)), write=True)
        return self._arrays[level]

    def unit(self, level: int) -> Shape:
        """The box (z, y, x) that one writer must own: a shard, or a chunk where there are none."""
        array = self.array(level)
        return triple((array.shards or array.chunks)[-3:])

    def write(self, level: int, start: Sequence[int], data: np.ndarray, *, channel: int = 0) -> None:
        """Store (z, y, x) data from index `start` on; it must cover whole shards (ValueError otherwise).

        channel   running number of what comes before z: of the channel, or of time point and channel in C order
        """
        array = self.array(level)
        lead = np.unravel_index(channel, array.shape[:-3]) if array.ndim > 3 else ()
        array.write((*map(int, lead), *start), data.reshape(*(1 for _ in lead), *data.shape))

    def read(self, level: int, start: Sequence[int], stop: Sequence[int], *, channel: int = 0) -> np.ndarray:
        """The (z, y, x) voxels from index `start` up to `stop`."""
        array = self.array(level)
        lead = tuple(map(int, np.unravel_index(channel, array.shape[:-3]))) if array.ndim > 3 else ()
        data = array.read((*lead, *start), (*(n + 1 for n in lead), *stop))
        return data.reshape(data.shape[len(lead) :])

    def finish(self) -> None:
        """Give an image that was created unfinished its metadata: from now on it is one."""
        attributes = read_attributes(self.url)
        if UNFINISHED in attributes:
            known = attributes[UNFINISHED]
            self._complete(known["ome"])
            write_attributes(self.url, known)

    def _complete(self, ome: dict[str, Any]) -> None:
        """Channels with a name alone, as other formats keep them, get the colour and window that OME-Zarr requires."""
        coarsest = self.array(len(ome["multiscales"][0]["datasets"]) - 1)
        for number, channel in enumerate(ome.get("omero", {}).get("channels", ())):
            if not isinstance(channel, dict) or "label" not in channel:
                continue
            channel.setdefault("color", COLOURS[number % len(COLOURS)])
            if "window" not in channel:
                channel["window"] = _window(coarsest, number)


def _window(array: Array, channel: int) -> dict[str, float]:
    """What a viewer shows at first: the 0.1th to the 99.9th percentile of at most 128^3 voxels around the middle."""
    lead = (0,) * (array.ndim - 4) + ((channel,) if array.ndim > 3 else ())
    low = [max(0, n // 2 - 64) for n in array.shape[-3:]]
    high = [min(n, n // 2 + 64) for n in array.shape[-3:]]
    data = array.read((*lead, *low), (*(n + 1 for n in lead), *high))
    data = data[np.isfinite(data)]
    start, end = np.percentile(data, (0.1, 99.9)) if data.size else (0, 1)
    whole = np.iinfo(array.dtype) if array.dtype.kind in "ui" else None
    least, most = (whole.min, whole.max) if whole else (data.min(initial=start), data.max(initial=end))
    return {"min": float(least), "max": float(most), "start": float(start), "end": float(max(end, start + 1e-6))}


def _metadata(grids: Sequence[Grid], axes: str, name: str, labels: bool, display: Mapping[str, Any]) -> dict[str, Any]:
    time = {"step": 1.0, "unit": None, **display.get("time", {})}
    more = [time["step"] if axis == "t" else 1.0 for axis in axes[:-3]]
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
            scale, shift = np.asarray(grid.spacing), np.asarray(grid.origin)
        else:
            shift = affine[:3, 3]
        transformations = [
            {"type": "scale", "scale": [*more, *map(float, scale)]},
            {"type": "translation", "translation": [*(0.0 for _ in more), *map(float, shift)]},
        ]
        datasets.append({"path": str(number), "coordinateTransformations": transformations})
    named = {"t": {"name": "t", "type": "time"}, "c": {"name": "c", "type": "channel"}}
    if time["unit"]:
        named["t"]["unit"] = time["unit"]
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    multiscale = {
        "name": name,
        "axes": [*(named[axis] for axis in axes[:-3]), *space],
        "datasets": datasets,
        "type": "mode" if labels else "mean",
    }
    metadata: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    if labels:
        metadata["image-label"] = {k: v for k, v in display.get("image-label", {}).items() if k != "source"}
    elif "omero" in display:
        metadata["omero"] = display["omero"]
    return metadata
