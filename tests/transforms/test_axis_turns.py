"""Turns of axes: the nearest of 24, or of 24 reflections; what is left has a half."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bigreg.geometry import Grid
from bigreg.pipeline.context.frames import Frames
from bigreg.transforms.affine import about, angle_deg, apply_affine, nearest_axis_turn, polar_rotation

FIXED = Grid.from_spacing((20, 24, 28), (3.0, 2.0, 2.0), (100.0, -50.0, 7.0))
MOVING = Grid.from_spacing((24, 20, 30), (2.0, 2.0, 3.0), (-900.0, 400.0, 0.0))
AXIS_TURNS = Rotation.create_group("O").as_matrix()
seeds = st.integers(0, 2**32 - 1)
mirrors = st.sampled_from([None, 0, 1, 2])


def rotation(seed):
    return Rotation.random(random_state=np.random.default_rng(seed)).as_matrix()


def mirror(axis):
    return np.eye(3) if axis is None else np.diag([-1.0 if a == axis else 1.0 for a in range(3)])


@given(seeds, mirrors)
def test_the_nearest_of_all_turns_of_axes_is_found(seed, axis):
    turn = rotation(seed) @ mirror(axis)
    found = nearest_axis_turn(turn)
    others = AXIS_TURNS @ mirror(axis)
    assert any(np.array_equal(found, np.rint(other)) for other in others)
    nearest = min(angle_deg(other.T @ turn) for other in others)
    assert angle_deg(found.T @ turn) == pytest.approx(nearest, abs=1e-6)


def test_a_rotation_is_never_taken_for_a_reflection_that_is_nearer():
    turn = Rotation.from_rotvec(np.deg2rad(60) * np.ones(3) / np.sqrt(3)).as_matrix()  # 2/3 on three axes, -1/3 beside
    assert np.linalg.det(nearest_axis_turn(turn)) == pytest.approx(1.0)


@given(seeds)
def test_a_small_turn_leaves_the_axes_as_they_are(seed):
    vector = np.random.default_rng(seed).normal(size=3)
    turn = Rotation.from_rotvec(np.deg2rad(40) * vector / np.linalg.norm(vector)).as_matrix()
    np.testing.assert_array_equal(nearest_axis_turn(turn), np.eye(3))


@given(seeds, mirrors)
def test_frames_of_any_rotation_and_reflection_give_its_map_and_half_is_a_small_turn(seed, axis):
    rng = np.random.default_rng(seed)
    linear = rng.uniform(0.6, 1.7) * rotation(seed) @ mirror(axis)
    affine = about(linear, np.mean(FIXED.bounds(), 0), np.mean(MOVING.bounds(), 0) + rng.normal(size=3) * 10)
    frames = Frames.from_affine(FIXED, MOVING, np.eye(4), affine)
    corners = FIXED.corners()
    expected = apply_affine(affine, corners)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(apply_affine(frames.affine, corners), expected, rtol=0, atol=1e-9 * scale)
    assert np.linalg.det(frames.half[:3, :3]) > 0
    assert angle_deg(polar_rotation(frames.half)) < 32.0
    assert frames.mirrors == (axis is not None)


@given(seeds, mirrors)
def test_a_rotation_with_any_stretch_has_a_half(seed, axis):
    rng = np.random.default_rng(seed)
    own = rotation(seed + 1)
    linear = rotation(seed) @ own @ np.diag(rng.uniform(0.4, 2.5, 3)) @ own.T @ mirror(axis)
    frames = Frames.from_affine(FIXED, MOVING, np.eye(4), about(linear, np.zeros(3)))
    np.testing.assert_allclose(frames.affine[:3, :3], linear, rtol=0, atol=1e-9)


def test_the_middle_of_the_moving_image_keeps_its_place_under_a_turn_of_axes():
    frames = Frames.from_affine(FIXED, MOVING, np.eye(4), about(np.diag([-1.0, -1.0, 1.0]), np.zeros(3)))
    middle = np.mean(MOVING.bounds(), 0)
    np.testing.assert_allclose(apply_affine(frames.canonical, middle), middle)


def test_frames_are_kept_with_how_the_images_lie():
    before = about(np.diag([-1.0, 1.0, 1.0]), np.mean(MOVING.bounds(), 0))
    frames = Frames.from_affine(FIXED, MOVING, before, about(rotation(3), np.zeros(3)))
    again = Frames.from_json(frames.to_json())
    np.testing.assert_array_equal(again.before, before)
    np.testing.assert_array_equal(again.affine, frames.affine)
    assert not again.mirrors
