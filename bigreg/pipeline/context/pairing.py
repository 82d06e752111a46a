"""Where a run looks for pairs of points by itself: the passes, and how mid-space is cut into blocks for them.

Voxels are a power of two of the images' own, so that the grid has about 64 of them (45 to 91) along its longest axis,
however large the images are and whatever the ladder is set to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...config import Config
from ...engines.keypoints import margin
from ...geometry import BlockGrid, Lattice, Shape, triple
from .frames import Frames
from .ladder import COARSEST_VOXELS, level_spacing

AUTO = "auto"
"""What `landmarks.path` says in place of a file."""
FOUND_FILE = "found.csv"
"""In `landmarks` of the run: the pairs that it found and uses, as BigWarp reads them."""
REACHES = (16, 8, 8)
"""Voxels along each axis that a pass looks; each after the first sees the images as the one before brought them."""
LEAST_CELL, MOST_CELLS = 4, 1000
"""Voxels of a cell at least, and cells at most: each gives one pair."""
CORE = 48
"""Voxels of a block along each axis, as near as whole cells come to it."""


@dataclass(frozen=True, eq=False)
class PairGrid:
    """`lattice`: the cells, whose samples are the voxels; `blocks` of its cells, one for each pass."""

    lattice: Lattice
    blocks: tuple[BlockGrid, ...]

    @property
    def cell(self) -> int:
        """Voxels of a cell along an axis."""
        return self.lattice.samples[0]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Of a voxel, um."""
        return triple(s / self.cell for s in self.lattice.spacing)

    @property
    def slots(self) -> int:
        """Pairs that a block can find at the most: one for each cell from either image."""
        return 2 * math.prod(self.blocks[0].core)


def pair_grid(frames: Frames) -> PairGrid:
    """The grid for images that lie as `frames` say."""
    low, high = frames.domain()
    base = np.maximum(frames.mid_spacing("fixed"), frames.mid_spacing("moving"))
    ratio = float((high - low).max() / (base.min() * COARSEST_VOXELS))
    spacing = level_spacing(base, high - low, 2 ** max(0, round(math.log2(ratio))))
    voxels = np.ceil((high - low) / spacing - 1e-6)
    cell = LEAST_CELL
    while math.prod(_cells(voxels, cell)) > MOST_CELLS:
        cell += 1
    cells = _cells(voxels, cell)
    core = max(1, CORE // cell)
    blocks = tuple(BlockGrid.balanced(cells, (core,) * 3, (-(-margin(reach) // cell),) * 3) for reach in REACHES)
    return PairGrid(Lattice(cells, triple(spacing * cell), triple(low), (cell,) * 3), blocks)


def _cells(voxels: np.ndarray, cell: int) -> Shape:
    return triple(int(n) for n in np.maximum(np.ceil(voxels / cell - 1e-6), 1))


def sought(config: Config) -> bool:
    """Whether a run is to find pairs by itself."""
    return config.landmarks.path == AUTO
