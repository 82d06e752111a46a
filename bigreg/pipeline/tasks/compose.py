"""Task: exponentiate a level's velocity, compose it onto the half-way maps, and verify what is stored.

    d_fixed  <- d_fixed  o exp(+v)          d_moving <- d_moving o exp(-v)

The theorem that makes each factor invertible is about continuous maps; what is stored is sampled. So the determinant of
every stored sample is checked by all eight one-sided stencils. Where one is under the floor, the cells are written
down, the velocity is damped around them by a smooth mask, and the level is composed again. It ends: a velocity of zero
passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from scipy import ndimage

from ... import storage
from ...device import halvings
from ...geometry import Block, Shape, triple
from ...transforms.bspline import BOUND_CELLS, evaluate, squarings
from ...transforms.field import exponential, min_determinant, rounded
from ...transforms.positions import Positions
from ..context.context import IMAGES, Context, field_reader
from ..context.ladder import LevelPlan
from ..labels import label
from ..schedule.flow import Need, Stage
from ..store.store import Status

METRICS = ("min_jacobian", "max_displacement", "failing", "damped")
SIGNS = {"fixed": 1.0, "moving": -1.0}
DAMP_REACH = 4  # cells around a failing one that feel the mask
HALVINGS = 4  # attempts that halve the velocity; later ones take it away
LAST = 8  # the attempt of a level that takes all of its velocity away
FINAL = 10  # attempts from here on answer to the final fields, not to a level's own maps
FINAL_LAST = FINAL + 4


CHUNK = 32  # samples: about so long is a chunk of a map, of which a block reads what lies around it


def unit_of_maps(level: LevelPlan) -> tuple[Shape, Shape]:
    """Samples of a chunk, which is decoded at once, and of a shard, which is written at once: a block."""
    samples, core = level.lattice.samples, level.blocks.core
    chunk = []
    for cells, s in zip(core, samples, strict=True):
        lengths = [n * s for n in range(1, cells + 1) if cells % n == 0 and CHUNK / 2 <= n * s <= 1.5 * CHUNK]
        chunk.append(min(((abs(n - CHUNK), n) for n in lengths), default=(0, cells * s))[1])
    return triple(chunk), triple(c * s for c, s in zip(core, samples, strict=True))


def create(context: Context, level: LevelPlan) -> None:
    """The arrays of both half-way maps (um, mid-space), one shard per block."""
    storage.create_group(context.store.path("levels", level.index, "maps"), exist_ok=True)
    chunk, shard = unit_of_maps(level)
    for which in IMAGES:
        storage.create_array(
            context.store.path("levels", level.index, "maps", which),
            shape=(3, *level.lattice.grid.shape),
            dtype="float32",
            chunks=(3, *chunk),
            shards=(3, *shard),
            codec="lz4",
            dimension_names=("c", "z", "y", "x"),
            exist_ok=True,
        )


def damping(cells_of_attempts: Sequence[np.ndarray], start: Shape, stop: Shape) -> np.ndarray | None:
    """Factor in [0, 1] for the control points of the cells `start` up to `stop` (cells + 4 an axis); None for all 1.

    cells_of_attempts   for each attempt so far the (N, 3) cells that failed it
    """
    factor = None
    low = np.asarray(start) - 2 - DAMP_REACH
    shape = np.asarray(stop) + 2 + DAMP_REACH - low
    failed = [cells for cells in cells_of_attempts if len(cells)]
    for attempt, cells in enumerate(failed):
        near = cells[((cells >= low) & (cells < low + shape)).all(1)] - low
        if len(near) == 0:
            continue
        hit = np.zeros(shape, np.float32)
        hit[tuple(near.T)] = 1.0
        # A plateau of 1 two cells wide around each failing cell, then a smooth slope of two cells.
        hit = ndimage.uniform_filter(ndimage.maximum_filter(hit, 5, mode="constant"), 5, mode="nearest")
        strength = 0.5 if attempt < HALVINGS else 1.0
        inner = hit[(slice(DAMP_REACH, -DAMP_REACH),) * 3]
        factor = (1.0 if factor is None else factor) * (1.0 - strength * np.clip(inner, 0.0, 1.0))
    return factor


def level_factors(
    context: Context, level: LevelPlan, block: Block, cells: Sequence[np.ndarray] | None
) -> tuple[dict[str, torch.Tensor], float]:
    """exp(+v) - id and exp(-v) - id (um) at the samples of a block and one more on its far sides; mean damping.

    cells: what failed each attempt so far (see `damping`); None takes the whole velocity away.
    """
    samples = level.lattice.samples
    start, stop = cells_read(level, block)
    array = context.array("levels", level.index, "velocity")
    velocity = torch.as_tensor(array.read((0, *start), (3, *(b + 4 for b in stop))), device=context.device)
    factor = damping(cells, start, stop) if cells is not None else np.zeros(velocity.shape[1:], np.float32)
    if factor is not None:
        velocity = velocity * torch.as_tensor(factor, dtype=velocity.dtype, device=velocity.device)
    spacing = np.divide(level.lattice.spacing, samples)
    field = evaluate(velocity, samples)
    inner = tuple(
        slice((a - o) * s, min((b - o) * s + 1, (e - o) * s))
        for a, b, o, e, s in zip(block.start, block.stop, start, stop, samples, strict=True)
    )
    parts = {
        which: exponential(sign * field, spacing, squarings_of(level))[(slice(None), *inner)]
        for which, sign in SIGNS.items()
    }
    return parts, 0.0 if factor is None else float(1.0 - factor.mean())


def stage_name(level_index: int, attempt: int) -> str:
    return f"levels/{level_index}/compose/{attempt}"


def blocks_of_maps(level: LevelPlan, low: np.ndarray, high: np.ndarray) -> tuple[Shape, Shape]:
    """The box of the blocks whose maps are read where they are sampled from `low` to `high` (um, mid-space)."""
    lattice = level.lattice
    sample = 1.0 / np.asarray(lattice.samples)  # the neighbours of linear interpolation
    first = np.floor((low - lattice.origin) / lattice.spacing - sample - 1e-6).astype(int)
    last = np.floor((high - lattice.origin) / lattice.spacing + sample + 1e-6).astype(int)
    return level.blocks.touching(tuple(first.tolist()), tuple((last + 1).tolist()))


def needs(levels: dict[int, LevelPlan], level: LevelPlan, coarser_stage: str | None) -> tuple[Need, ...]:
    """A block exponentiates the velocity around it and follows the map of the level before to where that leads.

    coarser_stage   name of the stage that makes the maps of the level before
    """
    blocks, lattice = level.blocks, level.lattice
    spacing = np.asarray(lattice.spacing)

    def velocity(index: Shape) -> tuple[Shape, Shape]:
        start, stop = cells_read(level, blocks[index])
        return blocks.touching(start, tuple(b + 4 for b in stop))

    found = [Need(f"levels/{level.index}/stitch", velocity)]
    coarser = levels.get(level.index + 1)
    if coarser is not None and coarser_stage is not None:

        def maps(index: Shape) -> tuple[Shape, Shape]:
            # A flow of bounded velocity leads no further than the bound in unit time.
            reach = (BOUND_CELLS + 1) * spacing
            block = blocks[index]
            low, high = (np.multiply(cells, spacing) + lattice.origin for cells in (block.start, block.stop))
            return blocks_of_maps(coarser, low - reach, high + reach)

        found.append(Need(coarser_stage, maps))
    return tuple(found)


def stage(levels: dict[int, LevelPlan], level: LevelPlan, attempt: int, coarser_stage: str | None) -> Stage:
    """An attempt at a level's maps; where cells fail, what would read these does not start."""
    title = label("compose again" if attempt else "compose", level=level.index, attempt=attempt + 1)
    return Stage(
        stage_name(level.index, attempt), title, level.blocks.counts, compose,
        (level.index, attempt), METRICS, needs(levels, level, coarser_stage),
        halts="failing" if attempt < LAST else None,
    )  # fmt: skip


def cells_reached(level: LevelPlan) -> int:
    """Cells by which that goes beyond a block: scaling and squaring reaches as far as the largest coefficient, and one
    sample further for each squaring.
    """
    return 2 + -(-(squarings_of(level) + 2) // min(level.lattice.samples))


def cells_read(level: LevelPlan, block: Block) -> tuple[Shape, Shape]:
    """The cells around a block that its exponential depends on."""
    reach = cells_reached(level)
    start = triple(max(a - reach, 0) for a in block.start)
    return start, triple(min(b + reach, n) for b, n in zip(block.stop, level.blocks.cells, strict=True))


def squarings_of(level: LevelPlan) -> int:
    """N of the exponential: enough for the largest velocity that there can be, so that no block waits for another."""
    return squarings(BOUND_CELLS, level.lattice.samples)


def compose(context: Context, level_index: int, attempt: int, index: Shape) -> tuple[Status, dict[str, float]]:
    """Compute, verify and store both half-way maps on one block."""
    level = context.levels[level_index]
    cells = None
    if attempt not in (LAST, FINAL_LAST):
        cells = [failing_cells(context, level_index, a) for a in range(attempt)]
    block, samples = level.blocks[index], np.asarray(level.lattice.samples)
    maps = {which: np.empty((3, *np.asarray(block.shape) * samples), np.float32) for which in IMAGES}
    parts = []
    for part in _parts(block):
        low, high = ((np.asarray(at) - block.start) * samples for at in (part.start, part.stop))
        box = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
        parts.append(_compose_part(context, level, part, cells, {which: m[box] for which, m in maps.items()}))
    for which, whole in maps.items():
        out = context.array("levels", level_index, "maps", which, write=True)
        out.write((0, *np.asarray(block.start) * samples), whole)
    failing = [f for part in parts for f in part.failing]
    found = np.unique(np.concatenate(failing), axis=0) if failing else np.zeros((0, 3), int)
    store_failing(context, level_index, attempt, index, found)
    metrics = {
        "min_jacobian": min(part.worst for part in parts),
        "max_displacement": max(part.reach for part in parts),
        "failing": float(len(found)),
        "damped": sum(part.damped for part in parts) / len(parts),
    }
    return Status.DONE, metrics


@dataclass(frozen=True)
class _Part:
    """What was found of a part of a block: cells under the floor, smallest determinant, longest displacement (um)."""

    failing: list[np.ndarray]
    worst: float
    reach: float
    damped: float


def _parts(block: Block) -> list[Block]:
    """The block, or the parts that it is computed in where memory has run out."""
    core = triple(max(1, -(-n >> halvings())) for n in block.shape)
    cuts = [range(a, b, n) for a, b, n in zip(block.start, block.stop, core, strict=True)]
    return [
        replace(block, start=low, stop=triple(min(a + n, b) for a, n, b in zip(low, core, block.stop, strict=True)))
        for low in map(triple, product(*cuts))
    ]


def _compose_part(
    context: Context,
    level: LevelPlan,
    block: Block,
    cells: Sequence[np.ndarray] | None,
    maps: Mapping[str, np.ndarray],
) -> _Part:
    """Compute both half-way maps on a part of a block, into `maps`. `cells`: see `level_factors`."""
    factors, damped = level_factors(context, level, block, cells)
    samples = np.asarray(level.lattice.samples)
    first = np.asarray(block.start) * samples
    grid = level.lattice.grid
    worst, reach, failing = float("inf"), 0.0, []
    for which in IMAGES:
        field = factors[which]
        part = grid.cropped(first, first + field.shape[1:])
        coarser = context.half_map(level.index + 1, which)
        if coarser is not None:
            array, coarse_grid = coarser
            moved = Positions.of_grid(part, context.device).moved(field)
            field = field + moved.sample(field_reader(array), coarse_grid)
        field = rounded(field, context.precision)  # what is verified is what is stored
        reach = max(reach, float(field.abs().max()))
        if min(field.shape[1:]) > 1:
            smallest = min_determinant(field, grid.spacing)
            worst = min(worst, float(smallest.min()))
            bad = torch.nonzero(smallest < context.config.guarantee.min_determinant).cpu().numpy()
            failing.append((bad + first) // samples)
        own = tuple(slice(0, n) for n in np.asarray(block.shape) * samples)
        maps[which][...] = field[(slice(None), *own)].cpu().numpy()
    return _Part(failing, worst, reach, damped)


def failing_place(level_index: int, attempt: int, index: Sequence[int] | None = None) -> tuple[str, ...]:
    place = ("levels", str(level_index), "failing", str(attempt))
    return place if index is None else (*place, ".".join(map(str, index)))


def store_failing(context: Context, level_index: int, attempt: int, index: Sequence[int], cells: np.ndarray) -> None:
    """Write the (N, 3) cells of a block that are under the floor; nothing where there are none."""
    if len(cells):
        url = context.store.path(*failing_place(level_index, attempt, index))
        storage.create_array(url, shape=cells.shape, dtype="int32", chunks=cells.shape, exist_ok=True).write(
            (0, 0), cells.astype(np.int32)
        )


def failing_cells(context: Context, level_index: int, attempt: int) -> np.ndarray:
    """(N, 3) cells that failed an attempt, of all blocks."""
    url = context.store.path(*failing_place(level_index, attempt))
    found = [storage.open_array(storage.join(url, name))[...] for name in sorted(storage.children(url))]
    return np.concatenate(found) if found else np.zeros((0, 3), np.int32)
