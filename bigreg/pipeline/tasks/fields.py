"""Tasks: the two stored fields of the whole map, verified, and how well they undo each other.

In mid-space fixed_to_moving = d_moving o e_fixed and moving_to_fixed = d_fixed o e_moving, with e the inverse of d. On
disk each is a residual in its own frame, after which the affine A follows:

    fixed_to_moving(x) = A (x + u(x))        moving_to_fixed(y) = A^-1 (y + u'(y))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from ... import storage
from ...device import halvings
from ...geometry import BlockGrid, Grid, Lattice, Shape, triple
from ...quality.metrics import ErrorHistogram, JacobianSummary, central_jacobian
from ...transforms import ngff
from ...transforms.affine import apply_affine
from ...transforms.field import min_determinant, rounded
from ...transforms.positions import Positions, Read
from ..context.context import Context, field_reader
from ..context.frames import Frames
from ..context.outline import Outlined
from ..labels import label
from ..schedule.flow import Need, Stage, of_finer
from ..store.store import Status
from .compose import FINAL, store_failing
from .inverse import Half, undone

DIRECTIONS = ("fixed_to_moving", "moving_to_fixed")
METRICS = (
    "min_jacobian",
    "max_displacement",
    "inverse_residual",
    "failing",
    "folds",
    "samples",
    "mean_log",
    "squares_log",
)
CHECK_METRICS = ("inverse_error", "inside")
FLOOR = 0.01  # of a composite of two half maps, each above the configured floor
PIECE = 128  # samples along an axis of what is solved at once: it takes some twenty times the memory of its field


def ends(direction: str) -> tuple[str, str]:
    """(frame the map starts in, frame it ends in)."""
    return ("fixed", "moving") if direction == "fixed_to_moving" else ("moving", "fixed")


def field_blocks(grid: Grid, config) -> BlockGrid:
    """Blocks of a field: one shard each."""
    shard = tuple(min(config.output.shard, n) for n in grid.shape)
    return BlockGrid(grid.shape, shard, (0, 0, 0))


def finest_grid(frames: Frames, lattice: Lattice, direction: str) -> Grid:
    """The grid of a field: as fine as the finest velocity is sampled, over the whole image.

    One more sample on every side: a field keeps its value beyond its outer samples, which inside the image's outer half
    voxels would be an error of half a sample's change.
    """
    frame, _ = ends(direction)
    spacing = np.divide(lattice.spacing, lattice.samples)
    if frame == "moving":
        spacing = np.abs(frames.canonical[:3, :3]) @ spacing
    inner = ngff.field_grid(frames.grid(frame), spacing)
    return inner.cropped((-1, -1, -1), np.add(inner.shape, 1))


def field_grids(outline: Outlined, direction: str) -> list[Grid]:
    """Grids of a field's levels, finest first."""
    grids = [finest_grid(outline.frames, outline.levels[0].lattice, direction)]
    while max(grids[-1].shape) > 64 and min(grids[-1].shape) >= 2 * 4:
        grids.append(grids[-1].downsampled((2, 2, 2)))
    return grids


def chunk_of(config) -> int:
    """Samples along each axis of a chunk of a field: half of an image's, since each has three floats."""
    chunk: int = config.output.chunk
    return chunk // 2 if chunk % 2 == 0 and chunk >= 16 else chunk


def _label(kind: str, direction: str, **values: int) -> str:
    source, target = ends(direction)
    return label(kind, source=source, target=target, **values)


def stage(outline: Outlined, direction: str, attempt: int, reach: float) -> Stage:
    """A field of the maps of an attempt (see compose.FINAL). `reach`: the largest displacement of these, um."""
    again = attempt - FINAL
    blocks = field_blocks(field_grids(outline, direction)[0], outline.config)
    name = f"stages/{direction}" + (f"-attempt-{again + 1}" if again else "")
    return Stage(name, _label("field", direction), blocks.counts, fill, (direction, attempt, reach), METRICS)


def pyramid_stages(outline: Outlined, direction: str) -> list[Stage]:
    """A field's coarser levels, each of the one before."""
    blocks = [field_blocks(grid, outline.config) for grid in field_grids(outline, direction)]
    stages: list[Stage] = []
    for number in range(1, len(blocks)):
        name, title = f"stages/{direction}-level-{number}", _label("field level", direction, level=number)
        needs = (Need(stages[-1].name, of_finer(*blocks[number - 1 : number + 1])),) if stages else ()
        stages.append(Stage(name, title, blocks[number].counts, coarsen, (direction, number), needs=needs))
    return stages


def check_stage(outline: Outlined) -> Stage:
    """The round trip from the fixed image."""
    blocks = field_blocks(field_grids(outline, DIRECTIONS[0])[0], outline.config)
    return Stage("stages/check", label("check"), blocks.counts, check, metrics=CHECK_METRICS)


def create(context: Context, direction: str) -> None:
    """The multiscale field of one direction, filled with zeros."""
    grids = field_grids(context, direction)
    frame, other = ends(direction)
    output = context.config.output
    ngff.create_field(
        context.store.path("transforms", direction),
        grids,
        input_name=frame,
        output_name=other,
        chunks=(chunk_of(context.config),) * 3,
        shards=(output.shard,) * 3,
        codec="lz4",
        exist_ok=True,
    )


def _boxes(start: Shape, stop: Shape) -> Iterator[tuple[Shape, Shape]]:
    """Boxes of at most PIECE samples an axis that tile start .. stop; smaller where memory has run out."""
    piece = max(8, PIECE >> halvings())
    ranges = (range(a, b, piece) for a, b in zip(start, stop, strict=True))
    lows = map(triple, product(*ranges))
    return ((low, triple(min(a + piece, b) for a, b in zip(low, stop, strict=True))) for low in lows)


def fill(context: Context, direction: str, attempt: int, reach: float, index: Shape) -> tuple[Status, dict[str, float]]:
    """Compute, verify and store one block of a field. `reach`: largest displacement of the half-way maps, um."""
    frame, other = ends(direction)
    grid = field_grids(context, direction)[0]
    block = field_blocks(grid, context.config)[index]
    stop = triple(min(b + 1, n) for b, n in zip(block.stop, grid.shape, strict=True))
    to_mid = context.frames.to_mid(frame)
    halves = [Half(*known) for known in context.half_maps(frame)]
    tolerance = context.config.guarantee.inverse_tolerance
    out_half = context.half_map(0, other)
    assert out_half is not None, "a field is made of the maps of the finest level"
    out_array, out_grid = out_half
    field = torch.empty(3, *np.subtract(stop, block.start), device=context.device)
    # A residual lies in the frame it starts from, before the affine: mid-space motion carried back through the half.
    linear = torch.as_tensor(context.frames.mid_to(frame)[:3, :3], dtype=field.dtype, device=field.device)
    residual = 0.0
    for low, high in _boxes(block.start, stop):
        y = Positions.of_grid(grid.cropped(low, high), context.device).through(to_mid)
        inverse, left = undone(halves, y, reach, tolerance)
        delta = inverse + y.moved(inverse).sample(field_reader(out_array), out_grid)
        box = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, block.start, strict=True))
        delta = (linear @ delta.reshape(3, -1)).reshape(delta.shape)
        field[(slice(None), *box)] = rounded(delta, context.precision)  # what is verified is what is stored
        residual = max(residual, left)
    smallest = min_determinant(field, grid.spacing) if min(field.shape[1:]) > 1 else torch.ones(1, 1, 1)
    bad = torch.nonzero(smallest < FLOOR).cpu().numpy()
    if len(bad):
        y = Positions.of_points(apply_affine(grid.affine, bad + np.asarray(block.start)), context.device).through(
            to_mid
        )
        mid = y.moved(undone(halves, y, reach, tolerance)[0])
        _report_failing(context, direction, attempt, index, mid.points())

    own = tuple(slice(0, n) for n in block.shape)
    values = field[(slice(None), *own)].contiguous()
    summary = JacobianSummary()
    if min(block.shape) > 1:  # the last block may be one sample thick: then it has no differences of its own
        central = torch.as_tensor(central_jacobian(values, grid.spacing))
        summary = JacobianSummary.of_determinants(central, central)  # folds and minimum are those of the cells, above
    url = ngff.level_url(context.store.path("transforms", direction), 0)
    storage.open_array(url, write=True).write((0, *block.start), values.cpu().numpy())
    metrics = {
        "min_jacobian": float(smallest.min()),
        "max_displacement": float(values.square().sum(0).max().sqrt()),
        "inverse_residual": residual,
        "failing": float(len(bad)),
        "folds": float((smallest <= 0).sum()),
        "samples": float(summary.samples),
        "mean_log": summary.mean_log,
        "squares_log": summary.squares_log,
    }
    return Status.DONE, metrics


def _report_failing(context: Context, direction: str, attempt: int, index: Shape, points: np.ndarray) -> None:
    """Write down the cells, of every level, in which the stored field comes near to folding: at mid-space `points`."""
    for level in context.levels.values():
        lattice = level.lattice
        cells = np.floor((points - lattice.origin) / lattice.spacing).astype(int)
        cells = np.unique(np.clip(cells, 0, np.asarray(lattice.cells) - 1), axis=0)
        block: tuple[int, ...] = (0 if direction == "fixed_to_moving" else 1, *index)
        store_failing(context, level.index, attempt, block, cells)


def coarsen(context: Context, direction: str, level: int, index: Shape) -> tuple[Status, dict[str, float]]:
    """One block of a coarser level of a field, by block means of the level above."""
    grids = field_grids(context, direction)
    block = field_blocks(grids[level], context.config)[index]
    url = context.store.path("transforms", direction)
    fine = storage.open_array(ngff.level_url(url, level - 1))
    box = (0, *(2 * a for a in block.start)), (3, *(2 * b for b in block.stop))
    values = torch.as_tensor(fine.read(*box), device=context.device)
    values = rounded(torch.nn.functional.avg_pool3d(values[None], 2)[0], context.precision)
    storage.open_array(ngff.level_url(url, level), write=True).write((0, *block.start), values.cpu().numpy())
    return Status.DONE, {}


def check(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    """Round trip fixed -> moving -> fixed with the stored fields, between their samples, where they err most."""
    grid = field_grids(context, "fixed_to_moving")[0]
    block = field_blocks(grid, context.config)[index]
    histogram = ErrorHistogram()
    for low, high in _boxes(block.start, block.stop):
        histogram += ErrorHistogram.of(_round_trip(context, grid.cropped(low, high)))
    counts = np.asarray(histogram.counts, dtype=np.float64)
    storage.create_array(
        context.store.path("check", ".".join(map(str, index))),
        shape=(len(counts) + 2,),
        dtype="float64",
        chunks=(len(counts) + 2,),
        exist_ok=True,
    ).write((0,), np.concatenate([counts, [histogram.total, histogram.maximum]]))
    metrics = {"inverse_error": histogram.maximum, "inside": histogram.samples / math.prod(block.shape)}
    return (Status.DONE if histogram.samples else Status.BLANK), metrics


def _round_trip(context: Context, part: Grid) -> torch.Tensor:
    """(N,) voxels of fixed: by how much there and back errs at the samples of `part`, half a sample on, inside both."""
    like: dict[str, Any] = {"dtype": torch.float32, "device": context.device}
    half = torch.as_tensor(part.spacing, **like).reshape(3, 1, 1, 1) / 2
    here = Positions.of_grid(part, context.device).moved(half)
    there = follow(context, here, "fixed_to_moving")
    inside = there.inside(context.frames.moving) & here.inside(context.frames.fixed)
    back = follow(context, there, "moving_to_fixed")
    shift = torch.as_tensor(back.anchor - here.anchor, **like).reshape(3, 1, 1, 1)
    voxel = torch.as_tensor(context.frames.fixed.spacing, **like).reshape(3, 1, 1, 1)
    error = (back.offset - here.offset + shift) / voxel
    return error.square().sum(0).sqrt()[inside]


def follow(context: Context, positions: Positions, direction: str) -> Positions:
    """Positions through the stored map of a direction."""
    return Followed(context, direction, field_reader(context.array("transforms", direction, "0")))(positions)


@dataclass(frozen=True)
class Followed:
    """The stored map of a direction, for positions one after another. `read`: its field (see Positions.sample)."""

    context: Context
    direction: str
    read: Read

    @classmethod
    def of(cls, context: Context, direction: str, part: Grid) -> Followed:
        """The map around `part`, read once: pieces of it that are followed one by one share what they decode."""
        array, grid = context.array("transforms", direction, "0"), field_grids(context, direction)[0]
        low, high = Positions.of_points(part.corners()).index(grid).bounds()
        last = np.asarray(grid.shape) - 1
        first = triple(np.clip(np.floor(low).astype(int) - 1, 0, last))
        end = triple(np.clip(np.ceil(high).astype(int) + 1, first, last) + 1)
        whole = field_reader(array)(first, end)

        def read(start: Shape, stop: Shape) -> np.ndarray:
            if (np.less(start, first) | np.greater(stop, end)).any():
                return field_reader(array)(start, stop)
            box = tuple(slice(a - f, b - f) for a, b, f in zip(start, stop, first, strict=True))
            return whole[(slice(None), *box)]

        return cls(context, direction, read)

    def __call__(self, positions: Positions) -> Positions:
        grid = field_grids(self.context, self.direction)[0]
        moved = positions.moved(positions.sample(self.read, grid))
        affine = self.context.frames.affine
        return moved.through(affine if self.direction == "fixed_to_moving" else np.linalg.inv(affine))
