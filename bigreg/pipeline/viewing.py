"""What somebody who looks at a run may ask: images, fields and blocks, lazily, each placed in the world.

Everything is answered for a run in whatever state, as far as it has come. Nothing is written and no more is read than
the answer needs, so a run of terabytes is looked at as quickly as a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .. import storage
from ..errors import InputError
from ..geometry import BlockGrid, Grid, Shape
from ..quality.metrics import central_jacobian
from ..transforms.field import min_determinant
from ..transforms.positions import Positions
from ..volumes import open_volume
from . import compose, fields
from .context import IMAGES, Context, field_reader
from .ladder import LevelPlan, ladder
from .store import Status, require_fields
from .warp import measured_factors, output_blocks

PYRAMIDS = ("fixed", "moving", "warped", "fixed_to_moving", "moving_to_fixed", "jacobian")
"""The images; the displacements (3, z, y, x) in um, without the affine; the determinant of fixed_to_moving, without
the affine, and below 0 wherever one of the eight stencils says that a cell folds."""

PATCH_VOXELS = 128
"""A block is shown by at most so many voxels an axis, around its centre."""

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


@dataclass(frozen=True)
class Blocks:
    """The blocks of a stage: `grid` has one voxel a block, in the fixed world (um). Those at the far sides are smaller
    than the voxel says where the domain does not divide."""

    stage: str
    title: str
    grid: Grid


@dataclass(frozen=True)
class BlockReport:
    """What is known of a block. `metrics`: by name, of its stage and of those that went on with it; `message` and
    `trace`: why it failed; `worker`: who did it."""

    stage: str
    index: Shape
    status: Status
    metrics: dict[str, float] = field(default_factory=dict)
    worker: str = ""
    message: str = ""
    trace: str = ""


@dataclass(frozen=True, eq=False)
class Patches:
    """float32 (z, y, x) on one `grid`: the fixed image, the moving one after the affine, and after the deformation.

    frame   "fixed"; or "half-way" before the fields are there, where each image is moved by half of it
    """

    frame: str
    grid: Grid
    fixed: np.ndarray
    moving: np.ndarray
    warped: np.ndarray


# ---------------------------------------------------------------------------------------------------------- pyramids


def pyramid(context: Context, what: str) -> tuple[Samples, ...]:
    """See `PYRAMIDS`. Raises InputError where the run has not come so far."""
    if what in IMAGES:
        return _image(context, what)
    if what == "warped":
        return _warped(context)
    if what in fields.DIRECTIONS:
        return _field(context, what)
    if what == "jacobian":
        return tuple(_jacobian(level) for level in _field(context, "fixed_to_moving"))
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
        if grid.voxels >= levels[-1].grid.voxels or not _complete(done):
            continue
        array = context.store.array("images", which, "x".join(map(str, factors)), constant=True)
        levels.append(Samples(grid, array.dtype, array.read))
    return tuple(levels)


def _complete(url: str) -> bool:
    status = storage.open_array(url)[...] if storage.exists(url) else np.zeros(1)
    return bool(((status == Status.DONE) | (status == Status.BLANK)).all())


def _warped(context: Context) -> tuple[Samples, ...]:
    url = context.store.path("warped")
    if not context.config.output.warped:
        raise InputError(f"'{context.store.url}' has no warped image: its configuration says output.warped: false")
    node = storage.find_node(url)
    if node is None or "ome" not in node.attributes:
        raise InputError(f"'{context.store.url}' has no warped image yet; `bigreg resume` it first")
    volume = open_volume(url, name="warped")
    return tuple(
        Samples(volume.grid(n), volume.dtype, lambda a, b, n=n: volume.read(a, b, n)) for n in range(len(volume.levels))
    )


def _field(context: Context, direction: str) -> tuple[Samples, ...]:
    require_fields(context.store)
    levels = []
    for number, grid in enumerate(fields.field_grids(context, direction)):
        stage = f"stages/{direction}-level-{number}"
        if number and not _complete(context.store.path(stage, "status")):
            break
        array = context.store.array("transforms", direction, number, constant=True)
        levels.append(Samples(grid, array.dtype, field_reader(array), vector=True))
    return tuple(levels)


def _jacobian(displacement: Samples) -> Samples:
    grid = displacement.grid

    def read(start: Shape, stop: Shape) -> np.ndarray:
        low = tuple(max(a - 1, 0) for a in start)
        high = tuple(min(b + 1, n) for b, n in zip(stop, grid.shape, strict=True))
        if min(b - a for a, b in zip(low, high, strict=True)) < 2 or min(np.subtract(stop, start)) < 1:
            return np.ones(tuple(np.subtract(stop, start)), np.float32)
        values = torch.as_tensor(displacement.read(low, high).astype(np.float32))
        found = np.array(central_jacobian(values, grid.spacing), dtype=np.float32)
        cells = min_determinant(values, grid.spacing).numpy()
        for corner in np.ndindex(2, 2, 2):  # a cell that folds shows at each of its samples
            part = found[tuple(slice(c, c + n) for c, n in zip(corner, cells.shape, strict=True))]
            np.copyto(part, np.minimum(part, cells), where=cells <= 0)
        return found[tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))]

    return Samples(grid, np.dtype("float32"), read)


# ------------------------------------------------------------------------------------------------------------ blocks


def blocks(context: Context) -> dict[str, Blocks]:
    """All stages that are foreseen and have blocks in space, in the order in which they run."""
    if "frames" not in context.attributes:
        return {}
    found = {}
    for stage, title, _ in context.attributes.get("stages", []):
        placed = _placed(context, stage)
        if placed is not None:
            found[stage] = Blocks(stage, title, placed)
    return found


def _placed(context: Context, stage: str) -> Grid | None:
    """The grid of a stage's blocks in the fixed world; None where they have no place."""
    frames = context.frames
    if (level := _level(context, stage)) is not None:
        lattice = level.lattice
        size = np.multiply(level.blocks.core, lattice.spacing)
        own = Grid.from_spacing(level.blocks.counts, size, lattice.origin + size / 2)
        return own.transformed(frames.mid_to("fixed"))
    kind = stage.removeprefix("stages/").partition("-attempt-")[0]
    kind = "fixed_to_moving" if kind == "check" else kind
    if kind in fields.DIRECTIONS:
        grid = fields.field_grids(context, kind)[0]
        own = _coarse(grid, fields.field_blocks(grid, context.config))
        return own if kind == "fixed_to_moving" else own.transformed(np.linalg.inv(frames.affine))
    if kind == "warped":
        grid = _compared(context)
        return _coarse(grid, output_blocks(grid, context.config))
    return None


def _coarse(grid: Grid, own: BlockGrid) -> Grid:
    """A voxel a block."""
    matrix = grid.affine.copy()
    matrix[:3, 3] = grid.index_to_world((np.asarray(own.core) - 1) / 2)
    matrix[:3, :3] = grid.affine[:3, :3] * np.asarray(own.core)
    return Grid(own.counts, matrix)


def _compared(context: Context) -> Grid:
    finest = ladder(context.frames, context.config)[-1]
    return context.frames.fixed.downsampled(measured_factors(context.frames, finest, context.config, "fixed"))


def _level(context: Context, stage: str) -> LevelPlan | None:
    parts = stage.split("/")
    return context.levels.get(int(parts[1])) if parts[0] == "levels" and parts[1].isdigit() else None


def block_status(context: Context, stage: str) -> np.ndarray:
    """uint8 (z, y, x). Raises InputError where there is no such stage."""
    url = context.store.path(stage, "status")
    if storage.find_node(url) is not None:
        return storage.open_array(url)[...]
    placed = _placed(context, stage) if "frames" in context.attributes else None
    if placed is None:
        raise InputError(f"'{context.store.url}' has no stage {stage!r} with blocks in space")
    return np.zeros(placed.shape, np.uint8)


def _later(context: Context, stage: str) -> Iterator[str]:
    """A stage and those that go on with its blocks: of a level, what was stitched and composed."""
    yield stage
    level = _level(context, stage)
    if level is None or stage != f"levels/{level.index}":
        return
    yield f"{stage}/stitch"
    attempts = [int(a) for a in storage.children(context.store.path(stage, "compose")) if a.isdigit()]
    yield compose.stage_name(level.index, max(attempts, default=0))


def block_report(context: Context, stage: str, index: Shape) -> BlockReport:
    """Raises InputError where there is no such block."""
    status = block_status(context, stage)
    if len(index) != 3 or any(not 0 <= i < n for i, n in zip(index, status.shape, strict=True)):
        raise InputError(f"{stage} has no block {index}: there are {' x '.join(map(str, status.shape))}")
    metrics: dict[str, float] = {}
    for part in _later(context, stage):
        place = context.store.path(part, "metrics")
        for name in storage.children(place):
            if name != "zarr.json":
                value = float(_element(storage.join(place, name), index))
                if np.isfinite(value):
                    metrics.setdefault(name, value)
    url = context.store.path(stage, "worker")
    number = int(_element(url, index)) if storage.find_node(url) is not None else 0
    names = context.attributes.get("workers", [])
    told: dict[str, Any] = {}
    for error in context.attributes.get("errors", []):
        if error["stage"] == stage and tuple(error["block"]) == index:
            told = error
    return BlockReport(
        stage,
        index,
        Status(int(status[index])),
        metrics,
        names[number - 1] if 0 < number <= len(names) else "",
        told.get("message", ""),
        told.get("trace", ""),
    )


def _element(url: str, index: Shape) -> np.ndarray:
    return storage.open_array(url).read(index, tuple(i + 1 for i in index))


# ----------------------------------------------------------------------------------------------------------- patches


def patches(context: Context, stage: str, index: Shape) -> Patches:
    """Both images on the core of a block, at the resolution of its level."""
    placed = blocks(context).get(stage)
    if placed is None:
        raise InputError(f"'{context.store.url}' has no stage {stage!r} with blocks in space")
    if any(not 0 <= i < n for i, n in zip(index, placed.grid.shape, strict=True)):
        raise InputError(f"{stage} has no block {index}: there are {' x '.join(map(str, placed.grid.shape))}")
    level = _level(context, stage) or context.levels[0]
    images = {which: context.level_image(which, level) for which in IMAGES}
    checked = context.store.path("stages/check", "status")
    if storage.exists(checked) and _complete(checked):
        cell = Grid((1, 1, 1), placed.grid.cropped(index, np.add(index, 1)).matrix)
        return _fixed_patches(context, images, images["fixed"].grid, *cell.bounds(faces=True))
    return _half_way_patches(context, images, level, index)


def _fixed_patches(context: Context, images: dict, grid: Grid, low: np.ndarray, high: np.ndarray) -> Patches:
    box = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1).T
    corners = grid.world_to_index(box)
    first = np.clip(np.ceil(corners.min(0)).astype(int), 0, np.asarray(grid.shape) - 1)
    last = np.clip(np.ceil(corners.max(0)).astype(int), first + 1, grid.shape)
    first, last = _centred(first, last)
    here = Positions.of_grid(grid.cropped(first, last))
    return Patches(
        "fixed",
        grid.cropped(first, last),
        images["fixed"].read(tuple(first.tolist()), tuple(last.tolist())).astype(np.float32),
        _seen(images["moving"], here.through(context.frames.affine)),
        _seen(images["moving"], fields.follow(context, here, "fixed_to_moving")),
    )


def _half_way_patches(context: Context, images: dict, level: LevelPlan, index: Shape) -> Patches:
    block = level.blocks[index]
    lattice = level.patch(block.start, block.stop)
    first, last = _centred(np.zeros(3, int), np.asarray(lattice.grid.shape))
    grid = lattice.grid.cropped(first, last)
    here = Positions.of_grid(grid)
    last_stage = list(_later(context, f"levels/{level.index}"))[-1]
    composed = block_status(context, last_stage)[index] in (Status.DONE, Status.BLANK)

    def through(which: str) -> Positions:
        known = context.half_map(level.index if composed else level.index + 1, which)
        moved = here if known is None else here.moved(here.sample(field_reader(known[0]), known[1]))
        return moved.through(context.frames.mid_to(which))

    return Patches(
        "half-way",
        grid,
        _seen(images["fixed"], through("fixed")),
        _seen(images["moving"], here.through(context.frames.mid_to("moving"))),
        _seen(images["moving"], through("moving")),
    )


def _centred(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most PATCH_VOXELS an axis, around the middle."""
    spare = np.maximum(last - first - PATCH_VOXELS, 0)
    return first + spare // 2, last - (spare - spare // 2)


def _seen(image: Any, positions: Positions) -> np.ndarray:
    inside = positions.inside(image.grid)
    if not bool(inside.any()):
        return np.zeros(tuple(inside.shape), np.float32)
    return (positions.sample(image.read, image.grid)[0] * inside).numpy().astype(np.float32)
