"""Rotations that cover all of them, channels that turn with an image, and ranks."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import rankdata

from bigreg.engines.placed import Placed
from bigreg.engines.rotations import apart_deg, around, spread
from bigreg.engines.structure import ranks, structure, tissue_level, turned_channels
from bigreg.geometry import Grid


def test_every_rotation_has_one_of_the_spread_nearby():
    some = spread(400)
    for seed in range(50):
        turn = Rotation.random(random_state=seed).as_matrix()
        assert min(apart_deg(turn, other) for other in some) < 30.0


def test_small_rotations_turn_by_their_angle_and_lie_apart():
    turns = around(14.0)
    assert np.allclose([apart_deg(np.eye(3), t) for t in turns], 14.0)
    assert min(apart_deg(a, b) for i, a in enumerate(turns) for b in turns[:i]) > 14.0


def test_directions_turn_with_the_image():
    """An image whose axes are permuted has the directions of the first, turned: exactly, as nothing is resampled."""
    image = torch.as_tensor(np.random.default_rng(0).random((9, 10, 11)), dtype=torch.float32)
    grid = Grid.from_spacing(image.shape, (1.0, 1.0, 1.0))
    turn = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # moving = turn @ x
    moving = Placed(image, grid)
    seen = moving.turned(turn)  # in the world of x
    own = torch.stack(structure(moving, "directions"))
    back = Placed(own[0], grid).turned(turn)
    assert back.grid == seen.grid
    there = torch.stack([Placed(c, grid).turned(turn).image for c in turned_channels(own, turn)])
    torch.testing.assert_close(there, torch.stack(structure(seen, "directions")), atol=1e-5, rtol=0)


def test_the_level_of_the_tissue_does_not_follow_what_is_far_brighter():
    rng = np.random.default_rng(1)
    image = np.where(rng.random((30, 30, 30)) < 0.5, 0.05, 0.001) * rng.uniform(0.8, 1.2, (30, 30, 30))
    before = tissue_level(image, np.ones_like(image))
    image[:6, :6, :6] = 1.0
    assert tissue_level(image, np.ones_like(image)) == pytest.approx(before, rel=0.1)


def test_ranks_are_those_of_scipy_and_equal_values_share_theirs():
    image = np.random.default_rng(0).integers(-4, 4, (5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(ranks(image), rankdata(image).reshape(image.shape))
