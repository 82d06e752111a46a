"""Volume: one image, lazy, chunked and multiscale, placed in the world."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..errors import BigregError, CorruptDataError, InputError, SpacingError
from ..geometry import Grid, Shape, Vector, triple
from ..storage import patiently
from .arrays import open_in_memory
from .formats import find_format
from .levels import checked_levels
from .slicing import sliced
from .spec import IN_MEMORY, ImageSpec
from .stored import StoredImage, label, option
from .told import understood
from .units import figures, implausible

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Level:
    """One resolution of a volume: its grid, and its spacing over that of level 0 along (z, y, x)."""

    grid: Grid
    factors: Vector


class Volume:
    """An image that is read box by box. Make one with `open_volume`.

    `volume[10:20, :, 5]` and `volume.read(start, stop, level)` read a box, `numpy.asarray(volume)` all of it, and
    `volume.to_dask()` is lazy. `shape`, `spacing` (um), `dtype` are those of the finest level.

    spec         how to open it again; None for an array in memory
    name         what it is called in messages: fixed, moving, image
    levels       resolutions, finest first, each with its Grid in the world (um, z y x)
    orientation  the anatomical sides at which the world's (z, y, x) axes start, such as "ipl"; None if unknown
    channels     how many the file has (one is read)
    times        how many time points it has (one is read)
    display      what a copy takes over as it is (see StoredImage)
    settings     what was specified when it was opened
    spacing_known    whether its file states a spacing
    notes        sentences about how the file was understood, which `open_volume` logs as warnings
    spacing_from, orientation_from    what states them: "given", or what of the file; empty where nothing does
    compression  how level 0 is stored, as words; empty where the file does not say
    """

    def __init__(self, stored: StoredImage, spec: ImageSpec, name: str, *, array: Any = None) -> None:
        _check(stored, spec, name, array is not None)
        levels, found = checked_levels(stored.levels)
        stored = replace(stored, levels=levels, notes=(*stored.notes, *found))
        grids, orientation = _place(stored, spec, name)
        first = np.asarray(grids[0].spacing)
        if spec.spacing is None and not stored.confirmed and array is None:
            _check_plausible(first, spec, name)
        self.spec = spec if array is None else None
        self.name = name
        self.levels = tuple(Level(grid, triple(float(f) for f in np.asarray(grid.spacing) / first)) for grid in grids)
        self.orientation = orientation
        self.channels = stored.channels
        self.times = stored.times
        self.display = stored.display
        self.notes = stored.notes
        self.compression = stored.compression
        self.spacing_from = "given" if spec.spacing is not None else stored.spacing_from or "the file"
        self.orientation_from = "given" if spec.orientation is not None else "the file" if orientation else ""
        self.dtype = stored.dtype.newbyteorder("=")
        self.spacing_known = stored.spacing_known
        self._stored, self._settings, self._array = stored, spec, array

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.spec, self.name, self._array, self._settings)

    def __repr__(self) -> str:
        return f"Volume({label(self.name, self._settings)}, shape={self.shape}, spacing={self.grid().spacing} µm)"

    def grid(self, level: int = 0) -> Grid:
        return self.levels[level].grid

    @property
    def understood(self) -> dict[str, Any]:
        """What was understood of the image, as JSON, and all of it in one "line". Lengths in um, axes (z, y, x)."""
        return understood(self)

    @property
    def settings(self) -> ImageSpec:
        return self._settings

    @property
    def shape(self) -> Shape:
        return self.levels[0].grid.shape

    @property
    def chunks(self) -> Shape:
        """What is decoded at once at level 0 (z, y, x)."""
        return triple(int(c) for c in self._stored.levels[0].chunks)

    def read(self, start: Sequence[int], stop: Sequence[int], level: int = 0) -> np.ndarray:
        """The voxels from index `start` up to `stop` (z, y, x), native byte order.

        Raises ValueError for a box outside the volume, CorruptDataError naming what cannot be decoded, InputError where
        the place does not answer.
        """
        stored = self._stored.levels[level]
        start, stop = triple(int(v) for v in start), triple(int(v) for v in stop)
        if any(not 0 <= a <= b <= n for a, b, n in zip(start, stop, stored.shape, strict=True)):
            raise ValueError(f"{label(self.name, self._settings)}: box {start} to {stop} is outside {stored.shape}")
        try:
            data = patiently(label(self.name, self._settings), lambda: stored.read(start, stop))
        except (BigregError, MemoryError):
            raise
        except Exception as error:  # each codec library has errors of its own
            what = f"{label(self.name, self._settings)} level {level}: voxels {start} to {stop}"
            if (tries := getattr(error, "tries", 1)) > 1:
                text = f"{what} cannot be read: {error} (tried {tries} times); check disk, network and permissions"
                raise InputError(text) from error
            raise CorruptDataError(f"{what} cannot be decoded: {error}; restore the file from its source") from error
        return np.ascontiguousarray(data, dtype=self.dtype)

    @property
    def spacing(self) -> Vector:
        """um (z, y, x) between voxels of the finest level."""
        return triple(float(s) for s in self.grid().spacing)

    @property
    def ndim(self) -> int:
        return 3

    def __getitem__(self, key: Any) -> np.ndarray:
        """Voxels of the finest level by numbers and slices of (z, y, x): no more is read than is asked for."""
        return sliced(self.read, self.shape, key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All voxels of the finest level: `numpy.asarray(volume)`."""
        if copy is False:
            raise ValueError(f"{self} is not in memory, so it cannot be returned without a copy")
        return self.read((0, 0, 0), self.shape).astype(dtype or self.dtype, copy=False)

    def to_dask(self, level: int = 0) -> Any:
        """A level as a dask array, with the chunks of its file."""
        import dask.array as da
        from dask.base import tokenize

        chunks = tuple(int(c) for c in self._stored.levels[level].chunks)
        name = f"bigreg-{tokenize(self.identity(), level)}"
        from_array: Any = da.from_array  # its types are not stated
        return from_array(_LevelArray(self, level), chunks=chunks, name=name, fancy=False, inline_array=True)

    def with_channel(self, channel: int) -> Volume:
        """The same image, another channel."""
        return _reopen(self.spec, self.name, self._array, self._settings.model_copy(update={"channel": channel}))

    @property
    def planes(self) -> list[tuple[int, int]]:
        """(time point, channel) of every plane that is used: those asked for when it was opened, else all."""
        asked = self._settings
        times = range(self.times) if asked.time is None else [asked.time]
        channels = range(self.channels) if asked.channel is None else [asked.channel]
        return [(t, c) for t in times for c in channels]

    def shown(self, channels: Sequence[int]) -> dict[str, Any]:
        """`display` of some of the channels."""
        display = dict(self.display)
        named = display.get("omero", {}).get("channels")
        if isinstance(named, list) and len(named) == self.channels:
            display["omero"] = {**display["omero"], "channels": [named[c] for c in channels]}
        return display

    def plane(self, time: int, channel: int) -> Volume:
        """The same image at another time point and channel."""
        return _reopen(
            self.spec, self.name, self._array, self._settings.model_copy(update={"time": time, "channel": channel})
        )

    def identity(self) -> dict[str, Any]:
        """What the image is, as JSON: enough to notice later that a path now holds another image."""
        spec = self._settings
        return {
            "path": spec.path if self.spec is not None else None,
            "dataset": spec.dataset,
            "channel": spec.channel,
            "time": spec.time,
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "spacing": list(self.grid().spacing),
            "digest": self._digest,
        }

    @cached_property
    def _digest(self) -> str:
        grids = [level.grid.to_json() for level in self.levels]
        from dask.base import tokenize

        # An array in memory has no metadata that tells it from another: its contents do.
        metadata = self._stored.metadata if self._array is None else tokenize(self._array)
        text = json.dumps([metadata, grids, self.orientation], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


class _LevelArray:
    """A level as dask wants an array to be."""

    ndim = 3

    def __init__(self, volume: Volume, level: int) -> None:
        self.volume, self.level = volume, level
        self.shape, self.dtype = volume.grid(level).shape, volume.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        return sliced(lambda start, stop: self.volume.read(start, stop, self.level), self.shape, key)


def _reopen(spec: ImageSpec | None, name: str, array: Any, settings: ImageSpec) -> Volume:
    if array is not None:
        return Volume(open_in_memory(array, settings, name), settings, name, array=array)
    settings = settings if spec is None else settings.model_copy(update={"path": spec.path})
    return Volume(find_format(settings, name).open(settings, name), settings, name)


def open_volume(
    source: Any,
    *,
    dataset: str | None = None,
    channel: int | None = None,
    time: int | None = None,
    spacing: Sequence[float] | None = None,
    origin: Sequence[float] | None = None,
    orientation: str | None = None,
    name: str = "image",
) -> Volume:
    """Open an image: a path, URL, ImageSpec, Volume, or a numpy or dask array (which needs `spacing`).

    The keywords specify what the file does not state or states wrongly (see ImageSpec). Raises InputError, before any
    voxel is read, for whatever cannot be used: missing, unknown format, no spacing, 2-D, wrong axes, complex.
    """
    given = {
        "dataset": dataset,
        "channel": channel,
        "time": time,
        "spacing": None if spacing is None else tuple(spacing),
        "origin": None if origin is None else tuple(origin),
        "orientation": orientation,
    }
    given = {key: value for key, value in given.items() if value is not None}
    array = None
    if isinstance(source, Volume):
        if not given and name == source.name:
            return source
        array, known = source._array, source._settings.model_dump()
    elif isinstance(source, ImageSpec):
        known = source.model_dump()
    elif isinstance(source, (str, Path)):
        known = {"path": source}
    elif hasattr(source, "shape") and hasattr(source, "dtype"):
        array, known = source, {"path": IN_MEMORY}
        if dataset is not None:
            raise InputError(
                f"{name}: an array has no dataset ('{dataset}'); leave it out, or give the array that is meant"
            )
    else:
        raise InputError(f"{name}: {type(source).__name__} is not an image; give a path, a URL, a Volume or an array")
    try:
        settings = ImageSpec.model_validate({**known, **given})
    except ValidationError as error:
        details = error.errors()[0]
        field = str(details["loc"][0]) if details["loc"] else "path"
        message = str(details["msg"]).removeprefix("Value error, ")
        if field in ("spacing", "origin") and not message.startswith(field):  # pydantic's own words
            message = f"{given[field]} is not three numbers in µm (z, y, x)"
        remedy = f"; see {option(name, field)}" if field != "path" else ""
        called = f"{name} (an array in memory)" if array is not None else f"{name} '{known['path']}'"
        raise InputError(f"{called}: {field}: {message}{remedy}") from error
    volume = _reopen(None, name, array, settings)
    for note in volume.notes:
        _tell(label(name, settings), note)
    return volume


@cache
def _tell(what: str, note: str) -> None:
    logger.warning("%s: %s", what, note)


def _check(stored: StoredImage, spec: ImageSpec, name: str, in_memory: bool) -> None:
    shape = stored.levels[0].shape
    called = name if in_memory else label(name, spec)
    if stored.dtype.kind not in "biuf":
        kind = "complex" if stored.dtype.kind == "c" else "not plain numbers"
        raise InputError(f"{called} is {kind} (dtype {stored.dtype}); give integers or floats")
    if not stored.spacing_known and spec.spacing is None and in_memory:
        what = "pass (array, spacing), or open_volume(array, spacing=...), with the voxel size (z, y, x) in µm"
        raise SpacingError(f"{called} is an array without a spacing; {what}", shape)
    if not stored.spacing_known and spec.spacing is None:
        raise SpacingError(f"{label(name, spec)}: {_missing(stored, name)}", shape)


def _missing(stored: StoredImage, name: str) -> str:
    asked = option(name, "spacing")
    if stored.likely is not None:
        numbers = " ".join(f"{value:.6g}" for value in stored.likely)
        return f"{stored.unstated}; if it is in {stored.likely_in}, pass {asked} {numbers} (µm)"
    found = f": {stored.unstated}" if stored.unstated else ""
    return f"spacing is missing{found}; pass {asked} Z Y X (µm)"


def _check_plausible(spacing: np.ndarray, spec: ImageSpec, name: str) -> None:
    why = implausible(spacing)
    if why:
        numbers = " ".join(f"{value:.6g}" for value in spacing)
        raise InputError(
            f"{label(name, spec)}: the file's voxel size {figures(spacing)} µm (z, y, x) {why}; is its unit right? "
            f"Pass {option(name, 'spacing')} Z Y X (µm), {option(name, 'spacing')} {numbers} to confirm it"
        )


def _place(stored: StoredImage, spec: ImageSpec, name: str) -> tuple[list[Grid], str | None]:
    """Grids of all levels and the code of the world's axes, after what the spec overrules."""
    old = stored.levels[0].affine
    assert old is not None, "the finest level of an image has its place"
    steps = np.linalg.norm(old[:3, :3], axis=0)
    new = old.copy()
    if spec.spacing is not None:
        # All lengths of the header scale along, so that levels and origin keep their places relative to level 0.
        new[:3, :3] = old[:3, :3] / steps * spec.spacing
        new[:3, 3] = new[:3, :3] @ np.linalg.inv(old[:3, :3]) @ old[:3, 3]
        steps = np.asarray(spec.spacing)
    if spec.orientation is not None and stored.has_directions:
        new = np.diag([*steps, 1.0])
    if spec.origin is not None:
        new[:3, 3] = spec.origin
    relative = new @ np.linalg.inv(old)
    same = np.array_equal(new, old)
    stated = [level.affine for level in stored.levels[1:] if level.affine is not None]
    coarser = [affine if same else relative @ affine for affine in stated]
    # Level 0 is placed by `new` itself: through the product it would carry rounding.
    affines = [new, *coarser]
    grids = [
        Grid(level.shape, tuple(map(tuple, affine[:3]))) for level, affine in zip(stored.levels, affines, strict=True)
    ]
    return grids, spec.orientation or stored.orientation
