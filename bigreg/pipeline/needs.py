"""Which blocks of other stages a block reads, so which it waits for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..geometry import BlockGrid, Shape
from ..transforms.bspline import BOUND_CELLS, squarings
from . import stitch
from .ladder import LevelPlan
from .workload import Need, touching


def cells_reached(level: LevelPlan) -> int:
    """How far beyond a block the velocity is read, with as many squarings as the bound may ask for."""
    return 2 + -(-(squarings(BOUND_CELLS, level.lattice.samples) + 2) // min(level.lattice.samples))


def blocks_of_maps(level: LevelPlan, low: np.ndarray, high: np.ndarray) -> tuple[Shape, Shape]:
    """The blocks whose maps are read where they are sampled from `low` to `high` (um, mid-space)."""
    lattice = level.lattice
    sample = 1.0 / np.asarray(lattice.samples)  # the neighbours of linear interpolation
    first = np.floor((low - lattice.origin) / lattice.spacing - sample - 1e-6).astype(int)
    last = np.floor((high - lattice.origin) / lattice.spacing + sample + 1e-6).astype(int)
    return touching(level.blocks, first, last + 1)


def maps_of_patch(level: LevelPlan, coarser: LevelPlan) -> Need:
    """A patch sees the images through the maps of the level before."""
    spacing, origin = np.asarray(level.lattice.spacing), np.asarray(level.lattice.origin)

    def box(index: Shape) -> tuple[Shape, Shape]:
        block = level.blocks[index]
        return blocks_of_maps(coarser, origin + block.halo_start * spacing, origin + block.halo_stop * spacing)

    return Need(f"levels/{coarser.index}/compose/0", box)


def maps_of_flow(level: LevelPlan, coarser: LevelPlan) -> Need:
    """A block follows the coarser map to where its own velocity leads: no further than the bound in unit time."""
    spacing, origin = np.asarray(level.lattice.spacing), np.asarray(level.lattice.origin)
    reach = (BOUND_CELLS + 1) * spacing

    def box(index: Shape) -> tuple[Shape, Shape]:
        block = level.blocks[index]
        low, high = (origin + np.multiply(cells, spacing) for cells in (block.start, block.stop))
        return blocks_of_maps(coarser, low - reach, high + reach)

    return Need(f"levels/{coarser.index}/compose/0", box)


def patches_around(level: LevelPlan) -> Need:
    """A block blends all patches that reach into what it owns."""

    def box(index: Shape) -> tuple[Shape, Shape]:
        low, high = stitch.owned(level.blocks[index], level.blocks)
        return touching(level.blocks, [a - 4 for a in low], high, halo=True)

    return Need(f"levels/{level.index}", box)


def velocity_around(level: LevelPlan) -> Need:
    reach = cells_reached(level)

    def box(index: Shape) -> tuple[Shape, Shape]:
        block = level.blocks[index]
        return touching(level.blocks, [a - reach for a in block.start], [b + reach + 4 for b in block.stop])

    return Need(f"levels/{level.index}/stitch", box)


def of_finer(finer: BlockGrid, blocks: BlockGrid) -> Callable[[Shape], tuple[Shape, Shape]]:
    """What a block of a pyramid level reads of the level above."""
    ratio = [max(1, round(a / b)) for a, b in zip(finer.cells, blocks.cells, strict=True)]

    def box(index: Shape) -> tuple[Shape, Shape]:
        block = blocks[index]
        return touching(finer, *([a * r for a, r in zip(c, ratio, strict=True)] for c in (block.start, block.stop)))

    return box
