"""The demo's images: known answer, exactly known, and images that a registration can use."""

import numpy as np
import pytest
from scipy import ndimage

from bigreg.demo import make_pair
from bigreg.phantom import _Anatomy, _Warp
from bigreg.quality.metrics import central_jacobian, min_jacobian, ncc

SHAPE, SPACING = (41, 70, 83), (5.0, 3.0, 3.1)


@pytest.fixture(scope="module")
def pair():
    return make_pair(SHAPE, SPACING, seed=3)


def displacement(pair):
    return pair.truth - np.stack(
        np.meshgrid(*[np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)], indexing="ij")
    )


def test_both_images_are_the_same_function_of_position():
    """Light without the microscope: moving resampled through the truth is fixed, but for resampling."""
    extent = np.array(SHAPE) * SPACING
    anatomy = _Anatomy.random(extent, np.random.default_rng(1))
    warp = _Warp.random(extent, 9.0, np.random.default_rng(2))
    positions = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)], indexing="ij"))
    truth = warp.on_grid(SHAPE, SPACING).astype(np.float32)
    fixed, tissue = anatomy.image(truth, SPACING, warp.inverse)
    moving, _ = anatomy.image(positions.astype(np.float32), SPACING, lambda points: points)
    index = truth / np.reshape(SPACING, (3, 1, 1, 1))
    top = np.reshape(SHAPE, (3, 1, 1, 1)) - 3
    inside = ((index > 2) & (index < top)).all(0) & (tissue > 0.5)
    right = ncc(fixed, ndimage.map_coordinates(moving, index, order=3), inside)
    assert right > 0.98
    shifted = index + np.reshape([0.0, 0.5, 0.0], (3, 1, 1, 1))
    assert ncc(fixed, ndimage.map_coordinates(moving, shifted, order=3), inside) < right - 0.02


def test_truth_takes_cells_of_fixed_to_cells_of_moving(pair):
    index = (pair.cells_fixed / SPACING).T
    mapped = np.stack([ndimage.map_coordinates(t, index, order=3, mode="nearest") for t in pair.truth]).T
    inner = ((index > 2) & (index < np.reshape(SHAPE, (3, 1)) - 3)).all(0)
    assert inner.sum() > 200
    assert np.abs((mapped - pair.cells_moving)[inner] / SPACING).max() < 0.02


@pytest.mark.parametrize("image, places", [("fixed", "cells_fixed"), ("moving", "cells_moving")])
def test_cells_shine_where_they_are_said_to_lie(pair, image, places):
    light = getattr(pair, image).astype(float)
    index = (getattr(pair, places) / SPACING).T
    at_cells = ndimage.map_coordinates(light, index, order=1)
    beside = ndimage.map_coordinates(light, index + np.reshape([0, 4, 0], (3, 1)), order=1, mode="nearest")
    assert np.median(at_cells) > 1.4 * np.median(beside)


def test_truth_is_far_from_folding(pair):
    assert min_jacobian(displacement(pair), SPACING).min() > 0.3


def test_displacement_is_more_than_an_affine_explains(pair):
    d = displacement(pair).reshape(3, -1)
    design = np.vstack([np.ones(d.shape[1]), np.indices(SHAPE).reshape(3, -1)]).T
    rest = d.T - design @ np.linalg.lstsq(design, d.T, rcond=None)[0]
    longest = np.sqrt((rest**2).sum(1)).max()
    assert longest == pytest.approx(0.05 * min(np.multiply(SHAPE, SPACING)), rel=0.1)
    assert np.ptp(central_jacobian(displacement(pair), SPACING)) > 0.2


def test_mask_is_tissue_that_moving_shows(pair):
    top = np.reshape((np.array(SHAPE) - 1) * SPACING, (3, 1))
    seen = pair.truth[:, pair.mask]
    assert 0.2 < pair.mask.mean() < 0.7
    assert (seen >= 0).all() and (seen <= top).all()
    assert np.median(pair.fixed[pair.mask]) > 3 * np.median(pair.fixed[~pair.mask])


def test_images_are_uint16_of_the_asked_shape_and_do_not_saturate(pair):
    for image in (pair.fixed, pair.moving):
        assert image.dtype == np.uint16 and image.shape == SHAPE
        assert (image == 65535).mean() == 0 and image.std() > 300


def test_same_seed_gives_the_same_bits_and_another_seed_another_brain():
    first, again, other = (make_pair((20, 24, 24), (8.0, 8.0, 8.0), seed=s) for s in (5, 5, 6))
    for name in ("fixed", "moving", "truth", "mask", "cells_fixed"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.fixed, other.fixed)


def test_a_displacement_that_would_nearly_fold_is_refused():
    with pytest.raises(ValueError, match=r"max_displacement_um 80 .* make it smaller"):
        make_pair((20, 24, 24), (8.0, 8.0, 8.0), max_displacement_um=80)


def test_a_volume_too_small_for_cells_is_refused():
    with pytest.raises(ValueError, match="at least 16 voxels"):
        make_pair((8, 24, 24), (8.0, 8.0, 8.0))
