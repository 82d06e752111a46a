"""What a run holds at several resolutions: its images, its map, the map's determinant; lazily, placed in the world.

Everything is answered for a run in whatever state, as far as it has come, and no more is read than is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ... import storage
from ...errors import InputError
from ...geometry import Grid, Shape, triple
from ...quality.metrics import central_jacobian
from ...transforms.field import min_determinant
from ...transforms.positions import Positions
from ...volumes import open_volume
from ..context.context import IMAGES, Context, field_reader
from ..judging import confidence, noncorrespondence
from ..store.store import complete, require_fields
from ..tasks import fields

PYRAMIDS = (
    "fixed",
    "moving",
    "affine",
    "warped",
    "fixed_to_moving",
    "moving_to_fixed",
    "jacobian",
    "risk",
    "noncorrespondence",
)
"""The images; the moving one after the affine alone and after all, on the fixed grid; the displacements (3, z, y, x)
in um, without the affine; the determinant of fixed_to_moving, without the affine, and below 0 wherever one of the eight
stencils says that a cell folds; the probability of an error above two voxels, NaN where nothing is known; 1 where one
image shows what the other does not."""

Read = Callable[[Shape, Shape], np.ndarray]


@dataclass(frozen=True, eq=False)
class Samples:
    """One resolution of something: `shape` is that of `grid`, with a leading 3 where it is a vector field.

    read   (start, stop) of (z, y, x) -> the box as an array. Raises CorruptDataError, InputError.
    """

    grid: Grid
    dtype: np.dtype
    read: Read
    vector: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, *self.grid.shape) if self.vector else self.grid.shape


def pyramid(context: Context, what: str) -> tuple[Samples, ...]:
    """See `PYRAMIDS`. Raises InputError where the run has not come so far."""
    if what in IMAGES:
        return _image(context, what)
    if what == "affine":
        return _affine(context)
    if what == "warped":
        return _warped(context)
    if what in fields.DIRECTIONS:
        return _field(context, what)
    if what == "jacobian":
        return tuple(_jacobian(level) for level in _field(context, "fixed_to_moving"))
    if what == "risk":
        return _risk(context)
    if what == noncorrespondence.PLACE:
        return _unmatched(context)
    raise InputError(f"{what!r} is unknown; a run shows {', '.join(PYRAMIDS)}")


def _image(context: Context, which: str) -> tuple[Samples, ...]:
    """The image's own levels, then those that the run has made of it, if they are coarser."""
    if context.attributes["images"][which] is None:
        raise InputError(f"{which} was an array in memory that was not kept yet; call register again with it")
    volume = context.volumes[which]

    def own(level: int) -> Samples:
        return Samples(volume.grid(level), volume.dtype, lambda a, b: volume.read(a, b, level))

    levels = [own(number) for number in range(len(volume.levels))]
    place = context.store.path("images", which)
    names = [n for n in storage.children(place) if n[:1].isdigit()]
    for factors in sorted(tuple(int(f) for f in name.split("x")) for name in names):
        done = context.store.path(f"stages/prepare/{which}-{'x'.join(map(str, factors))}", "status")
        grid = volume.grid().downsampled(factors)
        if grid.voxels >= levels[-1].grid.voxels or not complete(done):
            continue
        array = context.store.array("images", which, "x".join(map(str, factors)), constant=True)
        levels.append(Samples(grid, array.dtype, array.read))
    return tuple(levels)


def _affine(context: Context) -> tuple[Samples, ...]:
    """The moving image through the affine alone, on the fixed image's grids; interpolated when it is read."""
    if "frames" not in context.attributes:
        raise InputError(f"'{context.store.url}' has no affine yet; `bigreg resume` it first")
    moving = _image(context, "moving")
    affine = context.frames.affine

    def level(grid: Grid) -> Samples:
        # The coarsest moving level that is as fine as this one, so that no more is read than is seen.
        wanted = float(np.prod(grid.spacing)) * abs(np.linalg.det(affine[:3, :3])) * 1.01
        source = [m for m in moving if float(np.prod(m.grid.spacing)) <= wanted or m is moving[0]][-1]

        def read(start: Shape, stop: Shape) -> np.ndarray:
            positions = Positions.of_grid(grid.cropped(start, stop)).through(affine)
            inside = positions.inside(source.grid)
            if not bool(inside.any()):
                return np.zeros(tuple(inside.shape), source.dtype)
            values = (positions.sample(source.read, source.grid)[0] * inside).numpy()
            return (np.rint(values) if source.dtype.kind in "iu" else values).astype(source.dtype)

        return Samples(grid, source.dtype, read)

    return tuple(level(fixed.grid) for fixed in _image(context, "fixed"))


def _warped(context: Context) -> tuple[Samples, ...]:
    if not context.config.output.warped:
        raise InputError(f"'{context.store.url}' has no warped image: output.warped is false in its configuration")
    return image_of_run(context, "warped", "warped image")


def _risk(context: Context) -> tuple[Samples, ...]:
    if not context.config.output.confidence:
        raise InputError(f"'{context.store.url}' has no risk map: output.confidence is false in its configuration")
    return image_of_run(context, confidence.PLACE, "risk map")


def _unmatched(context: Context) -> tuple[Samples, ...]:
    if "frames" in context.attributes:
        noncorrespondence.require_sought(context)
    return image_of_run(context, noncorrespondence.PLACE, "mask of non-correspondence")


def image_of_run(context: Context, place: str, name: str) -> tuple[Samples, ...]:
    """An image that the run has made."""
    url = context.store.path(place)
    node = storage.find_node(url)
    if node is None or "ome" not in node.attributes:
        raise InputError(f"'{context.store.url}' has no {name} yet; `bigreg resume` it first")
    volume = open_volume(url, name=place)
    return tuple(
        Samples(volume.grid(n), volume.dtype, partial(volume.read, level=n)) for n in range(len(volume.levels))
    )


def _field(context: Context, direction: str) -> tuple[Samples, ...]:
    require_fields(context.store)
    levels = []
    for number, grid in enumerate(fields.field_grids(context, direction)):
        stage = f"stages/{direction}-level-{number}"
        if number and not complete(context.store.path(stage, "status")):
            break
        array = context.store.array("transforms", direction, number, constant=True)
        levels.append(Samples(grid, array.dtype, field_reader(array), vector=True))
    return tuple(levels)


def _jacobian(displacement: Samples) -> Samples:
    grid = displacement.grid

    def read(start: Shape, stop: Shape) -> np.ndarray:
        low = triple(max(a - 1, 0) for a in start)
        high = triple(min(b + 1, n) for b, n in zip(stop, grid.shape, strict=True))
        if min(b - a for a, b in zip(low, high, strict=True)) < 2 or min(np.subtract(stop, start)) < 1:
            return np.ones(tuple(np.subtract(stop, start)), np.float32)
        values = torch.as_tensor(displacement.read(low, high).astype(np.float32))
        found = torch.as_tensor(central_jacobian(values, grid.spacing)).numpy()
        cells = min_determinant(values, grid.spacing).numpy()
        for corner in np.ndindex(2, 2, 2):  # a cell that folds shows at each of its samples
            part = found[tuple(slice(c, c + n) for c, n in zip(corner, cells.shape, strict=True))]
            np.copyto(part, np.minimum(part, cells), where=cells <= 0)
        return found[tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))]

    return Samples(grid, np.dtype("float32"), read)
