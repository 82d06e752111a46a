"""Displacements that a map may be off by: their size, that they never fold, and what they make of counts."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg.atlases.intervals import SampledMove, filled, interval
from bigreg.geometry import Grid

TILES = Grid.from_spacing((14, 12, 10), (200.0, 160.0, 160.0), (80.0, -400.0, 0.0))


def places(count: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(1)
    return TILES.index_to_world(rng.uniform(2, np.array(TILES.shape) - 3, (count, 3)))


def test_samples_are_as_large_as_sigma_says_along_each_axis():
    sigma = np.stack([np.full(TILES.shape, s, np.float32) for s in (10.0, 20.0, 40.0)])
    moved = np.stack([SampledMove(TILES, sigma, seed)(places()) - places() for seed in range(40)])
    assert np.sqrt((moved**2).mean((0, 1))) == pytest.approx([10, 20, 40], rel=0.15)
    assert abs(moved.mean((0, 1))).max() < 4


def test_a_sample_never_folds_however_large_sigma_is():
    for size in (20.0, 2000.0):
        sigma = np.abs(np.random.default_rng(3).normal(size, size, (3, *TILES.shape))).astype("f4")
        move = SampledMove(TILES, sigma, 5)
        # Each step is the identity and a displacement whose slopes add up to less than 1, along every row.
        slopes = [sum(np.abs(np.diff(m, axis=a)).max() for a in range(3)) for m in move.move]
        assert max(slopes) <= 0.8 + 1e-6
        line = np.repeat(places(50)[:, None], 200, 1)
        line[..., 2] += np.linspace(0, 150, 200)
        there = move(line.reshape(-1, 3)).reshape(line.shape)
        assert (np.linalg.norm(np.diff(there, axis=1), axis=-1) > 0).all()
    assert move.steps > 10


def test_samples_repeat_and_do_not_depend_on_which_points_are_asked():
    sigma = np.full((3, *TILES.shape), 30.0, np.float32)
    one, other = (SampledMove(TILES, sigma, 7) for _ in range(2))
    points = places(500)
    points[3] = np.nan
    whole = one(points)
    parts = np.concatenate([other(points[:100]), other(points[100:])])
    assert np.array_equal(whole, parts, equal_nan=True) and np.isnan(whole[3]).all()
    assert not np.allclose(whole, SampledMove(TILES, sigma, 8)(points), equal_nan=True)


def test_what_is_unknown_is_taken_from_the_nearest_tile():
    sigma = np.full((3, 4, 4, 4), np.nan)
    sigma[:, 0, 0, 0], sigma[:, 3, 3, 3] = 5.0, 9.0
    found = filled(sigma)
    assert found[0, 0, 0, 1] == 5 and found[2, 3, 3, 2] == 9 and np.isfinite(found).all()
    assert filled(np.full((3, 2, 2, 2), np.nan)) is None


def test_an_interval_holds_nine_of_ten_samples_and_the_count():
    assert interval(100, [100] * 20) == (100, 100)
    low, high = interval(80, list(range(75, 95)))
    assert (low, high) == (75, 94) and interval(12, [0, 9]) == (0, 12)
