"""The ladder of a run: which levels there are, and how each is cut into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...config import Config
from ...geometry import BlockGrid, Grid, Lattice, Shape, triple
from .channels import side
from .frames import Frames

COARSEST_VOXELS = 64  # longest axis of an automatic coarsest level
MARGIN_CELLS = 1  # cells of the finest level around the images
STILL_CELLS = (4, 4, 4)  # of the lattice of every level where nothing is deformed
THINNEST_VOXELS = 8  # an axis is not downsampled below this many voxels
QUICK_VOXELS = 4_000_000  # of the finest level of a quick run: some 20 s of two cores


@dataclass(frozen=True)
class LevelPlan:
    """One level: `index` in the ladder (0 = finest), voxel spacing (um), lattice, blocks in cells, engine steps."""

    index: int
    downsample: int
    spacing: tuple[float, float, float]
    lattice: Lattice
    blocks: BlockGrid
    cell_voxels: int
    iterations: int

    def patch(self, start: Shape, stop: Shape) -> Lattice:
        """The lattice of some cells, with the level's voxels as its samples."""
        return self.lattice.part(start, stop, (self.cell_voxels,) * 3)


def pooling(frames: Frames, which: str, spacing: np.ndarray, grid: Grid | None = None) -> Shape:
    """By how much an image is block-averaged for a level of that spacing (um, along the axes of mid-space).

    grid   of an image that does not lie on the voxels of its side

    Per index axis of the image, the power of two nearest to the level, so that an image is neither aliased nor blurred.
    """
    grid = frames.grid(which) if grid is None else grid
    ratio = along_axes(frames, which, spacing, grid) / np.asarray(grid.spacing)
    factors = 2 ** np.round(np.log2(np.maximum(ratio, 1.0))).astype(int)
    return triple(int(min(f, n)) for f, n in zip(factors, grid.shape, strict=True))


def along_axes(frames: Frames, which: str, spacing: np.ndarray, grid: Grid) -> np.ndarray:
    """(3,) um along the index axes of an image's grid, of a spacing (um) along the axes of mid-space."""
    if side(which) == "moving":
        spacing = np.abs(frames.canonical[:3, :3]) @ spacing
    along = np.abs(grid.affine[:3, :3]).argmax(0)  # the world axis that each index axis runs along
    found: np.ndarray = np.asarray(spacing)[along]
    return found


def ladder(frames: Frames, config: Config) -> list[LevelPlan]:
    """All levels, coarsest first; where nothing is deformed they differ in their voxels alone."""
    low, high = frames.domain()
    base = np.maximum(frames.mid_spacing("fixed"), frames.mid_spacing("moving"))
    settings = config.ladder
    # Beyond the domain maps keep their value at its border; the kink that this makes is kept outside the images.
    margin = MARGIN_CELLS * settings.cell_voxels * level_spacing(base, high - low, settings.finest)
    low, high = low - margin, high + margin
    extent = high - low
    coarsest = settings.coarsest
    if coarsest is None:
        ratio = (extent - 2 * margin).max() / (base.min() * COARSEST_VOXELS)
        coarsest = 2 ** max(0, int(np.ceil(np.log2(max(ratio, 1.0)) - 1e-9)))
    coarsest = max(coarsest, settings.finest)
    steps: list[tuple[int, int]] = []
    downsample = settings.finest
    while downsample <= coarsest:
        rank = len(dict.fromkeys(d for d, _ in steps))
        repeats = settings.repeats[min(rank, len(settings.repeats) - 1)] if config.deformation else 1
        iterations = settings.iterations[min(rank, len(settings.iterations) - 1)]
        steps += [(downsample, iterations)] * repeats
        downsample *= 2
    plans = []
    for index, (downsample, iterations) in enumerate(steps):
        spacing = level_spacing(base, extent, downsample)
        cell = spacing * settings.cell_voxels
        cells = triple(int(n) for n in np.maximum(np.ceil(extent / cell - 1e-6), 1))
        lattice = Lattice(cells, triple(cell), triple(low), (settings.samples,) * 3)
        core = max(1, config.blocks.core // settings.cell_voxels)
        halo = -(-config.blocks.halo // settings.cell_voxels)
        blocks = BlockGrid.balanced(cells, (core,) * 3, (halo,) * 3)
        if not config.deformation:  # zeros need no more than this, in one block
            lattice = Lattice(STILL_CELLS, triple(extent / STILL_CELLS), triple(low), (settings.samples,) * 3)
            blocks = BlockGrid(STILL_CELLS, STILL_CELLS, (0, 0, 0))
        plans.append(LevelPlan(index, downsample, tuple(spacing), lattice, blocks, settings.cell_voxels, iterations))
    return plans[::-1]


def level_spacing(base: np.ndarray, extent: np.ndarray, downsample: int) -> np.ndarray:
    """Voxel spacing (um) of a level: the finest axes are coarsened first, a thin axis stays as fine as it must."""
    target = base.min() * downsample
    factor = 2.0 ** np.round(np.log2(np.maximum(target / base, 1.0)))
    thinnest = 2.0 ** np.floor(np.log2(np.maximum(extent / base / THINNEST_VOXELS, 1.0)))
    return base * np.minimum(factor, thinnest)


def quick(config: Config, grids: Sequence[Grid]) -> Config:
    """The configuration for a look before a long run: the coarse levels alone, and no warped image.

    The finest level is the first at which both images have at most QUICK_VOXELS; each level is run as it would be else.
    """
    settings, finest = config.ladder, config.ladder.finest
    while max(_voxels_at(grid, finest) for grid in grids) > QUICK_VOXELS:
        finest *= 2
    left_out = int(np.log2(finest // settings.finest))
    ladder_ = settings.model_copy(
        update={
            "finest": finest,
            "coarsest": None if settings.coarsest is None else max(settings.coarsest, finest),
            "iterations": settings.iterations[min(left_out, len(settings.iterations) - 1) :],
            "repeats": settings.repeats[min(left_out, len(settings.repeats) - 1) :],
        }
    )
    return config.model_copy(update={"ladder": ladder_, "output": config.output.model_copy(update={"warped": False})})


def _voxels_at(grid: Grid, downsample: int) -> float:
    base, shape = np.asarray(grid.spacing), np.asarray(grid.shape)
    return float(np.prod(shape * base / level_spacing(base, shape * base, downsample)))
