"""The grid on which a run looks for pairs is small, whatever the images are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bigreg.engines.keypoints import margin
from bigreg.geometry import Grid
from bigreg.pipeline.context.frames import Frames
from bigreg.pipeline.context.pairing import CORE, MOST_CELLS, REACHES, pair_grid


def frames(shape, spacing):
    grid = Grid.from_spacing(shape, spacing, (0.0, 0.0, 0.0))
    return Frames.from_affine(grid, grid, np.eye(4), np.eye(4))


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((10000, 8000, 8000), (2.0, 2.0, 2.0)), ((30, 4000, 4000), (10.0, 0.5, 0.5)), ((56, 80, 96), (4.0, 2.6, 2.6)),
        ((2, 3, 4), (1.0, 1.0, 1.0)),
    ],
)  # fmt: skip
def test_blocks_and_pairs_are_few_and_small_for_any_image(shape, spacing):
    placed = frames(shape, spacing)
    grid = pair_grid(placed)
    assert math.prod(grid.lattice.cells) <= MOST_CELLS
    low, high = placed.domain()
    assert (np.asarray(grid.lattice.origin) == low).all()
    assert (np.multiply(grid.lattice.cells, grid.lattice.spacing) >= high - low - 1e-6).all()
    for blocks, reach in zip(grid.blocks, REACHES, strict=True):
        voxels = np.multiply(blocks.core, grid.cell)
        assert (voxels <= max(CORE, grid.cell)).all()
        assert min(blocks.halo) * grid.cell >= margin(reach)
        assert len(blocks) <= 27
        assert np.prod(blocks.core) * 2 <= grid.slots
