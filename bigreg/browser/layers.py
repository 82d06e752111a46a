"""What a browser shows of a run, of a result of `bigreg atlas`, or of an image, as layers of known places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..atlases import AtlasResult, is_atlas_result
from ..errors import InputError
from ..pipeline.looking.pyramids import Samples
from ..pipeline.run import Run, open_run
from ..pipeline.store.store import is_run
from ..volumes import Volume, open_volume
from ..volumes.labelled import looks_like_labels

LOOK_VOXELS = 2_000_000
"""As many voxels of the coarsest level are read, at most, to find how bright an image is."""
FIXED, WARPED, OTHER = "#ff00ff", "#00ff00", "#ffffff"


@dataclass(frozen=True, eq=False)
class BrowserLayer:
    """A pyramid, finest level first, and how it is shown.

    levels    each has its grid in the world, um (z, y, x)
    range     values that are black and of full colour; None for labels
    colour    of the brightest voxels, as #rrggbb
    names     of labels
    """

    name: str
    levels: Sequence[Samples]
    range: tuple[float, float] | None
    colour: str = OTHER
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def labels(self) -> bool:
        return self.range is None

    @property
    def dtype(self) -> np.dtype:
        """The type that is sent: WebGL knows no float64, float16, bool, and labels have no sign."""
        own = np.dtype(self.levels[0].dtype).newbyteorder("=")
        if self.labels:
            return np.dtype("uint64" if own.itemsize > 4 else "uint32")
        if own.kind == "b":
            return np.dtype("uint8")
        return own if own.kind in "iu" and own.itemsize <= 4 else np.dtype("float32")

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Values of the pyramid as they are sent; labels below 0 are 0."""
        if self.labels and values.dtype.kind in "if":
            values = np.maximum(values, 0)
        return values.astype(self.dtype, copy=False)


def layers_at(path: str) -> list[BrowserLayer]:
    """The layers of what is there, those below first.

    Raises InputError where there is no run, result or image, or a run without a fixed image.
    """
    if is_run(path):
        return _of_run(open_run(path))
    if is_atlas_result(path):
        return _of_atlas(AtlasResult(path))
    return _of_image(open_volume(path), path)


def _of_run(run: Run) -> list[BrowserLayer]:
    found = [_of_pyramid(run, "fixed", FIXED)]
    for what in ("warped", "affine"):  # what the run has come to
        try:
            found.append(_of_pyramid(run, what, WARPED))
            break
        except InputError:
            continue
    labels = run.fixed_labels()
    return found if labels is None else [*found, BrowserLayer("labels", [labels], None)]


def _of_pyramid(run: Run, what: str, colour: str) -> BrowserLayer:
    levels = run.pyramid(what)
    known = run.contrast("fixed" if what == "fixed" else "moving")
    return BrowserLayer(what, levels, known or brightness(levels[-1]), colour)


def _of_atlas(result: AtlasResult) -> list[BrowserLayer]:
    """Everything where it lies in the brain."""
    run = result.run
    levels = run.pyramid("moving")
    brain = BrowserLayer("brain", levels, run.contrast("moving") or brightness(levels[-1]))
    names = {int(row["id"]): f"{row['acronym']} {row['name']}" for row in result.regions}
    return [brain, BrowserLayer("annotation", _levels(result.annotation), None, names=names)]


def _of_image(volume: Volume, path: str) -> list[BrowserLayer]:
    """A layer for each channel, at the first time point."""
    name = path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".zarr").removesuffix(".ome")
    labels = looks_like_labels(volume)
    planes = [volume.plane(0, channel) for channel in range(volume.channels)]
    found = []
    for channel, plane in enumerate(planes):
        levels = _levels(plane)
        called = name if len(planes) == 1 else f"{name}, channel {channel}"
        found.append(BrowserLayer(called, levels, None if labels else brightness(levels[-1])))
    return found


def _levels(volume: Volume) -> list[Samples]:
    return [Samples(volume.grid(n), volume.dtype, partial(volume.read, level=n)) for n in range(len(volume.levels))]


def brightness(level: Samples) -> tuple[float, float]:
    """The 1st and the 99.9th percentile of a level, of its middle where it is large."""
    shape = np.asarray(level.grid.shape)
    side = shape if level.grid.voxels <= LOOK_VOXELS else np.minimum(shape, round(LOOK_VOXELS ** (1 / 3)))
    start = (shape - side) // 2
    values = level.read(tuple(start.tolist()), tuple((start + side).tolist())).astype(float)
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, (1, 99.9)) if values.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1)
