"""Which displacements are to be believed: what is wrong loses its weight, what is smooth keeps it."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg.transforms.agreement import agreement


def scattered(count, extent=1000.0, seed=0):
    """Points of a box, and a smooth displacement there: a stretch by 10 % and a bump of 60 um, 150 um wide."""
    points = np.random.default_rng(seed).uniform(0, extent, (count, 3))
    bump = np.exp(-0.5 * ((points - extent / 2) ** 2).sum(1) / 150.0**2)
    return points, 0.1 * points[:, [1, 2, 0]] + np.outer(bump, [60.0, 0.0, 0.0])


@pytest.mark.parametrize("seed", range(5))
def test_a_smooth_displacement_keeps_its_weights(seed):
    points, vectors = scattered(20, seed=seed)
    vectors = vectors - vectors.mean(0) + np.random.default_rng(seed).normal(0, 3.0, vectors.shape)
    weights = agreement(points, vectors, 5.0)
    assert (weights > 0.3).mean() >= 0.9 and np.median(weights) > 0.7


@pytest.mark.parametrize("seed", range(5))
def test_two_wrong_ones_among_many_lose_theirs(seed):
    points, vectors = scattered(22, extent=500.0, seed=seed)
    vectors = vectors - vectors.mean(0)
    rng = np.random.default_rng(seed)
    off = rng.normal(size=(2, 3))
    vectors[:2] += 200.0 * off / np.linalg.norm(off, axis=1, keepdims=True)
    weights = agreement(points, vectors, 5.0)
    assert (weights[:2] < 0.1).all()
    assert (weights[2:] > 0.3).mean() >= 0.9


def test_what_was_known_before_counts():
    points, vectors = scattered(10)
    prior = np.ones(10)
    prior[3] = 0.0
    assert agreement(points, vectors, 5.0, prior)[3] == 0.0


def test_exchanging_the_images_changes_no_weight():
    points, vectors = scattered(20)
    vectors[0] += 300
    np.testing.assert_array_equal(agreement(points, vectors, 5.0), agreement(points, -vectors, 5.0))


def test_one_or_two_have_nothing_to_be_compared_with():
    np.testing.assert_array_equal(agreement(np.zeros((2, 3)), np.ones((2, 3)), 1.0), [1.0, 1.0])


def test_pairs_at_the_same_place_are_no_trouble():
    points, vectors = scattered(10)
    points, vectors = points.repeat(6, 0), vectors.repeat(6, 0)
    assert (agreement(points, vectors - vectors.mean(0), 5.0) > 0.5).all()
