"""The global affine on phantoms whose answer is known: formulas in continuous space, seen on two grids."""

import contextlib

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bigreg.engines.affine import AMBIGUOUS, MIRROR, register_affine, reversals
from bigreg.engines.affine_refinement import Refinement
from bigreg.engines.placed import Placed
from bigreg.errors import InputError
from bigreg.geometry import Grid
from bigreg.similarity import by_name
from bigreg.transforms.affine import about, apply_affine, translation

FIXED = Grid.from_spacing((29, 45, 53), (6.0, 4.0, 4.0))
MOVING = Grid.from_spacing((37, 48, 41), (5.0, 3.5, 5.0), (1000.0, -40.0, 20.0))
CENTRE = np.mean(FIXED.bounds(), axis=0)
TARGET = np.mean(MOVING.bounds(), axis=0)
LNCC = by_name("lncc")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tissue(points):
    """Light at points (N, 3) of the fixed world: random cubic splines of three grains, sparse bright on dim."""
    rng = np.random.default_rng(0)
    total = np.zeros(len(points))
    for grain, height in ((12.0, 0.6), (25.0, 0.7), (60.0, 0.7)):
        coefficients = rng.standard_normal((int(900 / grain),) * 3)
        index = ((points - CENTRE) / grain).T + coefficients.shape[0] / 2
        total += height * ndimage.map_coordinates(coefficients, index, order=3, prefilter=False, mode="mirror")
    return np.exp(1.5 * total)


def seen(grid, to_fixed=None, light=tissue, noise_seed=None):
    """The light on a grid whose world is taken to the fixed world by `to_fixed`, scaled to about 0..1."""
    points = grid.index_to_world(np.indices(grid.shape).reshape(3, -1).T)
    image = light(points if to_fixed is None else apply_affine(to_fixed, points)).reshape(grid.shape)
    image = image / np.percentile(image, 99.5)
    if noise_seed is not None:
        image = 0.7 * image + 0.1 + 0.01 * np.random.default_rng(noise_seed).standard_normal(grid.shape)
    return torch.as_tensor(image, dtype=torch.float32)


def pair(truth, fixed=FIXED, moving=MOVING, light=tissue):
    """Images on both grids, moving seen through `truth` (fixed to moving world) with another gain, offset and noise."""
    return seen(fixed, light=light), seen(moving, np.linalg.inv(truth), light=light, noise_seed=1)


def error_voxels(found, truth, fixed=FIXED, moving=MOVING):
    """Largest distance of two maps over fixed points seen in moving, in moving's smallest voxel edges."""
    points = fixed.index_to_world(np.indices(fixed.shape)[:, ::4, ::4, ::4].reshape(3, -1).T)
    points = points[moving.contains(apply_affine(truth, points))]
    return np.linalg.norm(apply_affine(found - truth, points), axis=1).max() / min(moving.spacing)


def turned(degrees, shift=(0.0, 0.0, 0.0), linear=None):
    """A rotation (and more) about the middle of fixed, onto the middle of moving plus a shift (um)."""
    rotation = Rotation.from_rotvec(np.deg2rad(degrees)).as_matrix()
    return about(rotation if linear is None else rotation @ linear, CENTRE, TARGET + shift)


def test_shift_beyond_half_of_the_field_of_view_is_found():
    extent = np.multiply(FIXED.shape, FIXED.spacing)
    truth = translation([3.0, -0.1 * extent[1], -0.62 * extent[2]])
    images = pair(truth, moving=FIXED)
    result = register_affine(*images, FIXED, FIXED, kind="translation", similarity=LNCC)
    assert error_voxels(result.matrix, truth, moving=FIXED) < 0.1
    assert 0.25 < result.overlap < 0.45


def test_rotation_of_12_degrees_and_shift_is_found():
    truth = turned((7.0, -5.5, 8.0), (9.0, -15.0, 21.0))
    result = register_affine(*pair(truth), FIXED, MOVING, kind="rigid", similarity=LNCC)
    assert error_voxels(result.matrix, truth) < 0.1


@pytest.mark.parametrize(("seed", "similarity"), [(0, "lncc"), (1, "ncc")])
def test_full_affine_is_found_to_a_tenth_of_a_voxel(seed, similarity):
    rng = np.random.default_rng(seed)
    linear = np.eye(3) + rng.uniform(-0.08, 0.08, (3, 3))
    truth = turned(rng.uniform(-6, 6, 3), rng.uniform(-20, 20, 3), linear)
    result = register_affine(*pair(truth), FIXED, MOVING, similarity=by_name(similarity))
    assert error_voxels(result.matrix, truth) < 0.1
    assert not result.warnings and not result.ambiguous


def test_large_rotation_is_found_where_it_is_asked_for():
    truth = turned((20.0, 0.0, -16.0), (5.0, 5.0, 5.0))
    result = register_affine(*pair(truth), FIXED, MOVING, kind="rigid", similarity=LNCC, rotations_deg=30.0)
    assert error_voxels(result.matrix, truth) < 0.1


def test_moving_image_of_which_half_was_not_recorded_is_placed():
    truth = turned((3.0, 2.0, -4.0), (4.0, -6.0, 8.0))
    half = MOVING.cropped((0, 0, 0), (37, 48, 20))
    result = register_affine(*pair(truth, moving=half), FIXED, half, similarity=LNCC)
    assert error_voxels(result.matrix, truth, moving=half) < 0.1


def test_masked_half_of_an_image_does_not_count():
    truth = turned((3.0, 2.0, -4.0), (4.0, -6.0, 8.0))
    fixed, moving = pair(truth)
    mask = torch.ones_like(moving)
    mask[:, :26] = 0
    spoilt = torch.where(mask > 0, moving, float("nan"))
    spoilt[:, :13] = 5.0
    result = register_affine(fixed, spoilt, FIXED, MOVING, moving_mask=mask, similarity=LNCC)
    seen_part = MOVING.cropped((0, 26, 0), MOVING.shape)
    assert error_voxels(result.matrix, truth, moving=seen_part) < 0.15


def test_thin_stack_is_registered():
    thin = Grid.from_spacing((7, 60, 52), (9.0, 4.0, 4.0), CENTRE - (27.0, 118.0, 102.0))
    linear = np.eye(3)
    linear[1:, 1:] += [[0.04, -0.02], [0.03, -0.03]]
    truth = about(linear, CENTRE, CENTRE + np.array([4.0, 12.0, -9.0]))
    result = register_affine(*pair(truth, thin, thin), thin, thin, similarity=LNCC)
    assert error_voxels(result.matrix, truth, thin, thin) < 0.3


def test_swapping_the_images_inverts_the_result():
    truth = turned((4.0, -3.0, 5.0), (10.0, -5.0, 12.0), np.diag([1.05, 0.97, 1.02]))
    fixed, moving = pair(truth)
    mask = torch.ones_like(fixed)
    mask[:5] = 0
    there = register_affine(fixed, moving, FIXED, MOVING, fixed_mask=mask, similarity=LNCC)
    back = register_affine(moving, fixed, MOVING, FIXED, moving_mask=mask, similarity=LNCC)
    corners = FIXED.corners(faces=True)
    round_trip = apply_affine(back.matrix @ there.matrix, corners)
    assert np.abs(round_trip - corners).max() < 1e-6 * min(FIXED.spacing)
    assert back.similarity == there.similarity and back.confidence == there.confidence
    assert [(c.name, c.score) for c in back.candidates] == [(c.name, c.score) for c in there.candidates]
    for a, b in zip(there.candidates, back.candidates, strict=True):
        np.testing.assert_allclose(a.matrix @ b.matrix, np.eye(4), atol=1e-6)


def test_the_same_images_give_the_same_bits():
    images = pair(turned((4.0, 3.0, -5.0)))
    first, second = (register_affine(*images, FIXED, MOVING, similarity=LNCC) for _ in range(2))
    assert first.matrix.tobytes() == second.matrix.tobytes()
    assert [c.matrix.tobytes() for c in first.candidates] == [c.matrix.tobytes() for c in second.candidates]


@pytest.mark.parametrize("kind", ["translation", "rigid", "similarity"])
def test_result_stays_in_the_group_that_was_asked_for(kind):
    truth = turned((4.0, -3.0, 5.0), (5.0, 5.0, 5.0), np.diag([1.1, 0.95, 1.0]) + np.eye(3, k=1) * 0.05)
    linear = register_affine(*pair(truth), FIXED, MOVING, kind=kind, similarity=LNCC).matrix[:3, :3]
    if kind == "translation":
        np.testing.assert_array_equal(linear, np.eye(3))
        return
    scale = np.linalg.det(linear) ** (1 / 3)
    np.testing.assert_allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-9)
    assert (abs(scale - 1) < 1e-9) == (kind == "rigid")


def test_images_that_repeat_are_reported_as_ambiguous():
    period = 160.0
    grid = Grid.from_spacing((29, 45, 40), (6.0, 4.0, 4.0))
    longer = Grid.from_spacing((29, 45, 80), (6.0, 4.0, 4.0))

    def repeating(points):
        return tissue(np.column_stack([points[:, :2], np.abs(points[:, 2] % period - period / 2)]))

    images = seen(grid, light=repeating), seen(longer, light=repeating)
    result = register_affine(*images, grid, longer, kind="rigid", similarity=LNCC)
    assert result.ambiguous
    assert any("different places" in w for w in result.warnings)
    assert len(result.candidates) > 1


def test_start_that_is_chosen_is_the_best_candidate():
    result = register_affine(*pair(turned((4.0, 3.0, -5.0))), FIXED, MOVING, similarity=LNCC)
    assert result.start == result.candidates[0].name
    best = max(c.score for c in result.candidates if not c.mirrored)
    assert result.candidates[0].score >= (1.0 - AMBIGUOUS) * best
    assert all(c.score > 0 and 0 < c.overlap <= 1 for c in result.candidates)


def test_only_the_starts_that_are_asked_for_are_tried():
    images = pair(turned((0.0, 0.0, 2.0)))
    result = register_affine(*images, FIXED, MOVING, kind="rigid", similarity=LNCC, starts=("centres",))
    assert [c.name for c in result.candidates] == ["centres of mass"]


def test_stretch_beyond_belief_is_dropped_and_said():
    truth = about(np.diag([1.0, 1.0, 2.3]), CENTRE)
    fixed, moving = pair(truth, moving=FIXED)
    refinement = Refinement(Placed(fixed, FIXED), Placed(moving, FIXED), np.array(FIXED.spacing), LNCC, 0.2)
    warnings = []
    assert refinement.staged(truth, ("affine",), warnings) == []
    assert "dropped" in warnings[0]


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_blank_image_is_refused_by_name(which):
    images = dict(zip(("fixed", "moving"), pair(turned((0.0, 0.0, 0.0))), strict=True))
    images[which] = torch.full_like(images[which], 0.25)
    with pytest.raises(InputError, match=f"{which} is blank: every voxel is 0.25"):
        register_affine(images["fixed"], images["moving"], FIXED, MOVING, similarity=LNCC)


def test_images_that_do_not_meet_are_refused():
    images = pair(turned((0.0, 0.0, 0.0)))  # MOVING lies 1 mm away
    with pytest.raises(InputError, match="nothing in common where at least 20%"):
        register_affine(*images, FIXED, MOVING, similarity=LNCC, starts=("identity",))


def test_images_without_resemblance_are_refused():
    ramp = torch.linspace(0, 1, FIXED.shape[0])[:, None, None].expand(FIXED.shape).contiguous()
    with pytest.raises(InputError, match="nothing in common"):
        register_affine(
            ramp, 1 - ramp, FIXED, FIXED, kind="translation", similarity=LNCC, starts=("identity",), min_overlap=0.9
        )


def test_nan_and_empty_masks_are_refused():
    fixed, moving = pair(turned((0.0, 0.0, 0.0)))
    with pytest.raises(InputError, match="moving has no data"):
        register_affine(fixed, moving, FIXED, MOVING, moving_mask=torch.zeros_like(moving), similarity=LNCC)
    fixed[3, 4, 5] = float("nan")
    with pytest.raises(InputError, match="fixed has voxels that are NaN"):
        register_affine(fixed, moving, FIXED, MOVING, similarity=LNCC)


def test_wrong_arguments_are_refused():
    fixed, moving = pair(turned((0.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match="kind 'projective'"):
        register_affine(fixed, moving, FIXED, MOVING, kind="projective", similarity=LNCC)
    with pytest.raises(ValueError, match="starts"):
        register_affine(fixed, moving, FIXED, MOVING, similarity=LNCC, starts=("luck",))
    with pytest.raises(ValueError, match="moving image has shape"):
        register_affine(fixed, fixed, FIXED, MOVING, similarity=LNCC)


@pytest.mark.parametrize("similarity", ["lncc_squared", "nmi"])  # mi: in whole runs, see test_found_or_refused.py
def test_images_of_inverted_contrast_are_registered(similarity):
    truth = turned((5.0, -4.0, 6.0), (9.0, -15.0, 21.0), np.diag([1.03, 0.98, 1.02]))
    fixed, moving = pair(truth)
    inverted = (1.2 - moving).clamp_min(0.0) ** 1.5
    result = register_affine(fixed, inverted, FIXED, MOVING, similarity=by_name(similarity))
    assert error_voxels(result.matrix, truth) < 0.3
    assert not result.ambiguous


@pytest.mark.parametrize("degrees", [(100.0, 40.0, -20.0), (0.0, 180.0, 0.0)])
def test_any_rotation_is_found_and_believed(degrees):
    truth = turned(degrees, (9.0, -6.0, 12.0))
    result = register_affine(*pair(truth), FIXED, MOVING, kind="rigid", similarity=LNCC)
    assert error_voxels(result.matrix, truth) < 0.2
    assert result.confidence > 0.9 and not result.mirrored


def test_mirror_image_is_named_and_chosen_only_where_that_is_allowed():
    truth = turned((3.0, 2.0, -4.0), linear=np.diag([1.0, -1.0, 1.0]))
    images = pair(truth)
    result = register_affine(*images, FIXED, MOVING, kind="rigid", similarity=LNCC)
    assert not result.mirrored and result.confidence < 0.5
    assert any("mirror" in w for w in result.warnings)
    allowed = register_affine(*images, FIXED, MOVING, kind="rigid", similarity=LNCC, allow_mirror=True)
    assert allowed.mirrored and error_voxels(allowed.matrix, truth) < 0.1


def test_a_stack_of_either_image_that_is_reversed_is_among_the_mirror_images_tried():
    turn = turned((70.0, 20.0, -30.0))[:3, :3]
    tried = reversals(turn)
    for axis in range(3):
        flip = np.diag(1.0 - 2.0 * (np.arange(3) == axis))
        for reversed_ in (turn @ flip, flip @ turn):
            assert any(np.allclose(MIRROR[:3, :3] @ near, reversed_) for near in tried)


@pytest.mark.parametrize("upright", ["fixed", "moving"])
def test_the_mirror_image_of_a_body_of_two_like_sides_is_found_where_one_image_lies_obliquely(upright):
    flip, turn = np.diag([1.0, -1.0, 1.0]), turned((70.0, 20.0, -30.0))
    to_body = translation(-CENTRE) if upright == "fixed" else translation(-TARGET) @ turn  # its sides lie along y

    def body(points):
        there = apply_affine(to_body, points)
        left, right = (tissue(CENTRE + 1.3 * there @ f) for f in (np.eye(3), flip))
        return 0.65 * left + 0.35 * right

    truth = turn @ about(flip, CENTRE) if upright == "fixed" else about(flip, TARGET) @ turn
    images = pair(truth, light=body)
    result = register_affine(*images, FIXED, MOVING, kind="rigid", similarity=LNCC, allow_mirror=True)
    assert result.mirrored and error_voxels(result.matrix, truth) < 0.1


def test_images_of_nothing_in_common_are_not_believed():
    noise = [
        torch.as_tensor(np.random.default_rng(k).random(g.shape), dtype=torch.float32)
        for k, g in enumerate((FIXED, MOVING))
    ]
    smooth = torch.as_tensor(ndimage.gaussian_filter(noise[1].numpy(), 3.0))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    with contextlib.suppress(InputError):  # or they are refused at once
        assert register_affine(noise[0], smooth, FIXED, MOVING, similarity=LNCC).confidence < 0.5
