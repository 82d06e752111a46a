"""Points with texture are found again where they are, and nothing is found where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bigreg.engines.keypoints import keypoints, margin, matches, texture
from bigreg.similarity.features import mind

SHAPE, CELL, REACH = (24, 28, 32), 4, 5
CELLS = tuple(n // CELL for n in SHAPE)


def blobs(seed, shape=SHAPE):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.2)
    return (0.5 + 0.2 * image / image.std()).astype(np.float32)


def found(one, other, reach=REACH):
    ones = np.ones(one.shape, np.float32)
    features = tuple(mind(torch.from_numpy(np.ascontiguousarray(i)), torch.ones(i.shape)).numpy() for i in (one, other))
    cells = tuple(n // CELL for n in one.shape)
    return matches(features, (ones, ones), keypoints(texture(one, ones), (0, 0, 0), cells, CELL), reach)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.tuples(*[st.integers(-3, 3)] * 3))
def test_points_are_found_where_a_shift_has_taken_them(seed, shift):
    one = blobs(seed)
    pairs = found(one, np.roll(one, shift, (0, 1, 2)))
    inner = ((pairs.points > 6) & (pairs.points < np.array(SHAPE) - 7)).all(1)
    assert inner.sum() >= 3
    assert np.abs(pairs.found - pairs.points - shift)[inner].max() < 0.5


def test_parts_of_a_voxel_are_found():
    one = blobs(1, (24, 32, 32))
    pairs = found(one, ndimage.shift(one, (0, 0.5, -0.25), order=3, mode="nearest"))
    moved = (pairs.found - pairs.points)[((pairs.points > 5) & (pairs.points < 19)).all(1)]
    assert np.abs(np.median(moved, 0) - (0, 0.5, -0.25)).max() < 0.2


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_without_texture_there_are_no_points(level):
    flat = np.full(SHAPE, level, np.float32)
    assert len(keypoints(texture(flat, np.ones(SHAPE)), (0, 0, 0), CELLS, CELL)) == 0


def test_an_edge_is_no_point():
    wall = (np.indices(SHAPE)[2] > 13).astype(np.float32)
    assert len(keypoints(texture(wall, np.ones(SHAPE)), (0, 0, 0), CELLS, CELL)) == 0


def test_of_images_that_have_nothing_in_common_next_to_nothing_is_found():
    one, other = (blobs(seed, (32, 40, 40)) for seed in (3, 4))
    points = keypoints(texture(one, np.ones(one.shape)), (0, 0, 0), (8, 10, 10), CELL)
    assert len(points) > 100
    assert len(found(one, other, 8).points) < 0.1 * len(points)


def test_nothing_is_found_where_the_other_image_is_not_known():
    one = blobs(5)
    features = (mind(torch.from_numpy(one), torch.ones(SHAPE)).numpy(),) * 2
    points = keypoints(texture(one, np.ones(SHAPE)), (0, 0, 0), CELLS, CELL)
    known = np.ones(SHAPE)
    known[:, :, 14:] = 0
    pairs = matches(features, (np.ones(SHAPE), known), points, REACH)
    assert len(pairs.points) and (pairs.found[:, 2] < 14).all()
    assert len(matches(features, (known, np.zeros(SHAPE)), points, REACH).points) == 0


def test_what_lies_beyond_the_margin_does_not_matter():
    """So the pairs of a block are those of the whole image."""
    shape, reach = (16, 16, 120), 4
    one, ones = blobs(6, shape), np.ones(shape)
    other = np.roll(one, 2, 2)
    low = 60 - margin(reach)
    high = 60 + CELL + margin(reach)
    whole, part = [], []
    for box, first, result in (((0, 120), 60, whole), ((low, high), margin(reach), part)):
        images = [np.ascontiguousarray(i[:, :, box[0] : box[1]]) for i in (one, other)]
        features = tuple(mind(torch.from_numpy(i), torch.ones(i.shape)).numpy() for i in images)
        mask = ones[:, :, box[0] : box[1]]
        points = keypoints(texture(images[0], mask), (0, 0, first), (4, 4, 1), CELL)
        pairs = matches(features, (mask, mask), points, reach)
        corner = np.array([0, 0, box[0]])
        result += [pairs.points + corner, pairs.found + corner, pairs.ratio]
    assert len(whole[0]) > 2
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
