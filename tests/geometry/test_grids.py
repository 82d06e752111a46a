"""Grids in voxel centres; blocks that partition their domain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigreg.geometry import BlockGrid, Grid, Lattice

sizes = st.tuples(*[st.integers(1, 40)] * 3)
cores = st.tuples(*[st.integers(1, 12)] * 3)
halos = st.tuples(*[st.integers(0, 5)] * 3)


@given(sizes, cores, halos)
def test_cores_partition_the_domain_and_halos_stay_inside(cells, core, halo):
    blocks = BlockGrid.balanced(cells, core, halo)
    count = np.zeros(cells, int)
    for block in blocks:
        count[tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))] += 1
        assert all(0 <= a <= b < c <= d <= n for a, b, c, d, n in zip(
            block.halo_start, block.start, block.stop, block.halo_stop, cells, strict=True))  # fmt: skip
        assert all(b - a <= c for a, b, c in zip(block.start, block.stop, core, strict=True))
    assert (count == 1).all()


@given(sizes, cores, halos, st.integers(0, 2**31 - 1))
def test_overlapping_finds_exactly_the_blocks_whose_halo_meets_a_box(cells, core, halo, seed):
    blocks = BlockGrid(cells, core, halo)
    rng = np.random.default_rng(seed)
    start = [int(rng.integers(0, n)) for n in cells]
    stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, cells, strict=True)]
    meets = [
        b.index
        for b in blocks
        if all(max(a, p) < min(z, q) for a, z, p, q in zip(b.halo_start, b.halo_stop, start, stop, strict=True))
    ]
    assert set(meets) <= set(blocks.overlapping(start, stop))


@given(sizes, cores, halos)
def test_redundancy_is_what_is_read_over_what_there_is(cells, core, halo):
    blocks = BlockGrid(cells, core, halo)
    read = sum(int(np.prod(b.halo_shape)) for b in blocks)
    assert blocks.redundancy == pytest.approx(read / np.prod(cells))


def test_a_plan_of_a_million_blocks_costs_nothing_to_hold():
    blocks = BlockGrid((3200, 3200, 3200), (32, 32, 32), (4, 4, 4))
    assert len(blocks) == 10**6
    assert blocks[999_999].stop == (3200, 3200, 3200)


def test_the_presets_read_at_most_2_2_times_the_domain():
    blocks = BlockGrid((3200, 3200, 3200), (32, 32, 32), (4, 4, 4))
    assert blocks.redundancy < 2.2


def test_a_mean_level_stands_where_its_voxels_mean():
    grid = Grid.from_spacing((17, 23, 31), (3.0, 1.5, 0.7), (10.0, -4.0, 2.0))
    level = grid.downsampled((2, 3, 4))
    assert level.shape == (8, 7, 7)
    np.testing.assert_allclose(level.index_to_world([[0, 0, 0]]), grid.index_to_world([[0.5, 1.0, 1.5]]))
    np.testing.assert_allclose(level.index_to_world([[2, 3, 1]]), grid.index_to_world([[4.5, 10.0, 5.5]]))


@given(st.integers(0, 2**31 - 1))
def test_world_and_index_undo_each_other_on_any_grid(seed):
    rng = np.random.default_rng(seed)
    matrix = np.column_stack([np.diag([3.0, 2.0, 1.0]) + rng.uniform(-0.3, 0.3, (3, 3)), rng.uniform(-1e5, 1e5, 3)])
    grid = Grid((5, 6, 7), matrix)
    points = rng.uniform(-10, 10, (20, 3))
    np.testing.assert_allclose(grid.world_to_index(grid.index_to_world(points)), points, atol=1e-8)
    assert Grid.from_json(grid.to_json()) == grid


def test_a_volume_ends_at_the_faces_of_its_outer_voxels():
    grid = Grid.from_spacing((4, 4, 4), (2.0, 1.0, 1.0))
    assert grid.contains(np.array([[-1.0, 0, 0], [7.0, 3.5, 3.5]])).all()
    assert not grid.contains(np.array([[-1.01, 0, 0], [0, 3.51, 0]])).any()


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan")), (1, 1)])
def test_a_spacing_that_makes_no_sense_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing"):
        Grid.from_spacing((3, 3, 3), spacing)


def test_control_points_are_the_centres_of_cells_and_samples_tile_them():
    lattice = Lattice((3, 4, 5), (8.0, 4.0, 4.0), (1.0, 2.0, 3.0), (4, 2, 2))
    grid = lattice.grid
    assert lattice.points == (7, 8, 9) and grid.shape == (12, 8, 10)
    np.testing.assert_allclose(grid.downsampled((4, 2, 2)).origin, (5.0, 4.0, 5.0))
    np.testing.assert_allclose(grid.bounds(faces=True)[0], lattice.origin)
    part = lattice.part((1, 0, 2), (3, 4, 5))
    np.testing.assert_allclose(part.origin, (9.0, 2.0, 11.0))
    assert part.cells == (2, 4, 3)
