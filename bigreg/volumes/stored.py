"""What a format module answers: the levels of one image as its file describes them, and small tools for all formats."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypedDict

import numpy as np

from ..errors import InputError, named
from ..geometry import Numbers, Shape
from ..storage import filesystem, local_path
from .spec import IN_MEMORY, ImageSpec

Read = Callable[[Shape, Shape], np.ndarray]


@dataclass(frozen=True)
class StoredLevel:
    """One resolution: shape and chunks (z, y, x), the 4 x 4 affine index to header world, and how to read a box.

    The affine is None for a coarser level whose place the file does not state: it follows from the shapes.
    """

    shape: Shape
    affine: np.ndarray | None
    chunks: Shape
    read: Read


@dataclass(frozen=True)
class StoredImage:
    """One image as its file describes it.

    Affines are in um where `spacing_known`, else in level-0 voxels. `has_directions`: the header says how the axes
    lie in an anatomical world, whose own axes are named by `orientation`. `metadata` is what the digest is made of.
    `display` is what a copy takes over as it is: OME's "omero" and "image-label", and "time", the step and its unit.
    `notes` are sentences for the user about how the file was understood. `spacing_from` names what states the spacing;
    where none can be used, `unstated` says what was found instead; `likely` is that in um (z, y, x) if its unit is
    `likely_in`. `confirmed`: whoever wrote the file confirmed a spacing that is not plausible. `compression`: how
    level 0 is stored, as words; empty where that says nothing.
    """

    levels: tuple[StoredLevel, ...]
    dtype: np.dtype
    metadata: Any
    channels: int = 1
    times: int = 1
    spacing_known: bool = True
    has_directions: bool = False
    orientation: str | None = None
    display: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    spacing_from: str = ""
    unstated: str = ""
    likely: tuple[float, ...] | None = None
    likely_in: str = "µm"
    confirmed: bool = False
    compression: str = ""


def packed(array: Any) -> str:
    """The compression of a stored array as words; how numbers and chunks are laid out is left out."""
    names = [name for name in array.codecs if name not in _LAYOUT]
    return " ".join([*(["sharded"] if "sharding_indexed" in array.codecs else []), *(names or ["not compressed"])])


_LAYOUT = ("sharding_indexed", "bytes", "crc32c", "transpose", "endian")


@dataclass(frozen=True)
class BoxReader:
    """Reads (z, y, x) boxes out of an array with more axes or another order; `axes` has one letter an axis."""

    array: Any
    axes: str
    picked: dict[str, int] = field(default_factory=dict)

    def __call__(self, start: Shape, stop: Shape) -> np.ndarray:
        box = {a: slice(b, e) for a, b, e in zip("zyx", start, stop, strict=True)}
        data = np.asarray(self.array[tuple(box[a] if a in box else self.picked[a] for a in self.axes)])
        left = [a for a in self.axes if a in box]
        return data.transpose([left.index(a) for a in "zyx"])

    def per_axis(self, values: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Values given for each array axis, for (z, y, x) only."""
        return tuple(values[self.axes.index(a)] for a in "zyx")


def label(name: str, spec: ImageSpec) -> str:
    """How an image is called in messages."""
    if spec.path == IN_MEMORY:
        return f"{name} (an array in memory)"
    inside = f" dataset '{spec.dataset}'" if spec.dataset else ""
    return f"{name} '{spec.path}'{inside}"


def option(name: str, what: str) -> str:
    """What gives a property of this image, as messages name it; of a mask, which has none, what to give instead."""
    if name.endswith(" mask"):
        return {"dataset": "PATH/DATASET as its path"}.get(what, f"a file with one {what}")
    if name.startswith("--"):  # an image of the command line that has no such option
        return f"a {name} that states it, as of bigreg convert --{what}"
    return named(f"--{name}-{what}" if name in ("fixed", "moving") else f"--{what}", f"open_volume's {what}")


def pick(name: str, spec: ImageSpec, axes: str, shape: Sequence[int]) -> dict[str, int]:
    """Which channel and time point is read; raises InputError where the file has not so many, or no z, y, x."""
    if not all(axes.count(a) == 1 for a in "zyx"):
        what = "is 2-D" if axes.count("z") == 0 else "has the wrong axes"
        raise InputError(f"{label(name, spec)} {what} (axes {axes}, shape {tuple(shape)}); give a 3-D image (z, y, x)")
    picked = {}
    counts = dict(zip(axes, shape, strict=True))
    for axis, what, wanted in (("c", "channel", spec.channel), ("t", "time", spec.time)):
        count = counts.pop(axis, 1)
        if (wanted or 0) >= count:
            raise InputError(
                f"{label(name, spec)}: {what} {wanted} is out of range; available: {count} (0 to {count - 1}), "
                f"pass {option(name, what)}"
            )
        picked[axis] = wanted or 0
    extra = [a for a in counts if a not in "zyx"]
    if any(counts[a] != 1 for a in extra):
        raise InputError(f"{label(name, spec)} has the wrong axes ({axes}, shape {tuple(shape)}); only t, c, z, y, x")
    return picked | dict.fromkeys(extra, 0)


class Counts(TypedDict):
    channels: int
    times: int


def counts(axes: str, shape: Sequence[int]) -> Counts:
    """How many channels and time points an array with these axes has."""
    known = dict(zip(axes, shape, strict=True))
    return {"channels": int(known.get("c", 1)), "times": int(known.get("t", 1))}


COLOURS = 4
"""So many values or fewer along an axis are channels of a voxel rather than voxels in a row."""


def unnamed_axes(name: str, spec: ImageSpec, shape: Sequence[int]) -> str:
    """Axes of an array that does not name them: (z, y, x), with channel and time before where they are asked for.

    Channels are the last axis where that one alone is as short as colours are; axes of one element are none.
    """
    axes = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}.get(len(shape), "?" * len(shape))
    if "c" in axes and shape[-1] <= COLOURS < min(shape[-4:-1]):
        axes = axes.replace("c", "") + "c"
    elif "c" in axes and spec.channel is None and spec.time is None and sum(n > 1 for n in shape) == 3:
        spatial, other = iter("zyx"), iter("ct")
        axes = "".join(next(spatial if n > 1 else other) for n in shape)
    if "?" in axes:
        raise InputError(f"{label(name, spec)} has the wrong axes (shape {tuple(shape)}); give a 3-D image (z, y, x)")
    for axis, what, wanted in (("c", "channel", spec.channel), ("t", "time", spec.time)):
        if axis in axes and wanted is None and shape[axes.index(axis)] > 1:
            raise InputError(
                f"{label(name, spec)} has {len(shape)} axes without names (shape {tuple(shape)}); "
                f"pass {option(name, what)} N if they are {axes}, else give a 3-D image (z, y, x)"
            )
    return axes


def scaling(spacing: Numbers, origin: Numbers = (0, 0, 0)) -> np.ndarray:
    """The 4 x 4 affine of an axis-aligned grid."""
    affine = np.diag([*map(float, spacing), 1.0])
    affine[:3, 3] = origin
    return affine


def open_binary(path: str) -> BinaryIO:
    """A seekable file at a path or URL."""
    local = local_path(path)
    if local is not None:
        return open(local, "rb")
    files, place = filesystem(path)
    file: BinaryIO = files.open(place, "rb")
    return file


_loaded: OrderedDict[tuple[Any, ...], np.ndarray] = OrderedDict()
_loading = threading.Lock()
KEPT = 4


@dataclass(frozen=True)
class LoadedOnce:
    """An array whose file cannot be read in parts: loaded on first use; the last few are kept for the process."""

    path: str
    load: Callable[[], np.ndarray]

    def __getitem__(self, key: Any) -> np.ndarray:
        local = local_path(self.path)
        stat = os.stat(local) if local is not None else None
        known = (self.path, stat and (stat.st_mtime_ns, stat.st_size))
        with _loading:
            if known not in _loaded:
                _loaded[known] = self.load()
                while len(_loaded) > KEPT:
                    _loaded.popitem(last=False)
            _loaded.move_to_end(known)
            part: np.ndarray = _loaded[known][key]
            return part
