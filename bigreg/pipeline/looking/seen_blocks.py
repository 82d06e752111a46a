"""The blocks of a run as somebody sees them who looks at it: where they lie, how they fared, the images on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ... import storage
from ...errors import InputError
from ...geometry import BlockGrid, Grid, Shape
from ...transforms.positions import Positions
from ..context.context import IMAGES, Context
from ..context.ladder import LevelPlan, ladder
from ..store.store import Status, complete
from ..tasks import compose, fields
from ..tasks.warp import measured_factors, output_blocks

PATCH_VOXELS = 128
"""A block is shown by at most so many voxels an axis, around its centre."""


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
    return Grid(own.counts, tuple(map(tuple, matrix)))


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
        raise InputError(f"{stage} has no block {index}; it has {' x '.join(map(str, status.shape))}")
    metrics: dict[str, float] = {}
    for part in _later(context, stage):
        place = context.store.path(part, "metrics")
        for name in storage.children(place):
            if name != "zarr.json":
                value = _element(storage.join(place, name), index)
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


def _element(url: str, index: Shape) -> float:
    return float(storage.open_array(url)[index])


# ----------------------------------------------------------------------------------------------------------- patches


def patches(context: Context, stage: str, index: Shape) -> Patches:
    """Both images on the core of a block, at the resolution of its level."""
    placed = blocks(context).get(stage)
    if placed is None:
        raise InputError(f"'{context.store.url}' has no stage {stage!r} with blocks in space")
    if any(not 0 <= i < n for i, n in zip(index, placed.grid.shape, strict=True)):
        raise InputError(f"{stage} has no block {index}; it has {' x '.join(map(str, placed.grid.shape))}")
    level = _level(context, stage) or context.levels[0]
    images = {which: context.level_image(which, level) for which in IMAGES}
    if complete(context.store.path("stages/check", "status")):
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
        return context.half_way(here, level.index if composed else level.index + 1, which)

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
