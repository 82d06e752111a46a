"""What is far brighter than tissue, in images of known tissue."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from bigreg.intensity import LIMIT, bright_limit, keep_out_bright, usual_top


def tissue(shape=(40, 42, 48), seed=0):
    """Blobs of tissue, background of camera noise at one side."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    image = 1000 + 400 * texture / texture.std()
    image[:, : shape[1] // 3] = 100
    return (image + 10 * rng.normal(size=shape)).astype(np.float32)


def with_ball(image, radius, value, centre=(20, 28, 20)):
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.indices(image.shape), centre, strict=True)))
    return np.where(distance < radius, value, image).astype(np.float32)


def limits(image):
    return tuple(float(v) for v in np.percentile(image, [1, 99.9]))


def test_the_range_of_tissue_is_kept_to_the_bit():
    low, high = limits(tissue())
    assert usual_top(tissue(), low, high, 99.9) == high
    assert bright_limit(tissue(), high, 99.9) == LIMIT


def test_the_limit_is_lower_where_the_range_was_freed():
    image = with_ball(tissue(), 7, 8_000)
    assert bright_limit(image, usual_top(image, *limits(image), 99.9), 99.9) == LIMIT / 2


@pytest.mark.parametrize("value", [8_000, 65_535, 1e9])
@pytest.mark.parametrize("radius", [4, 7, 10])
def test_a_ball_of_any_brightness_does_not_set_the_range(radius, value):
    clean = limits(tissue())[1]
    image = with_ball(tissue(), radius, value)
    low, high = limits(image)
    assert usual_top(image, low, high, 99.9) == pytest.approx(clean, rel=0.1)


def test_bright_structure_in_many_places_keeps_the_range():
    """Thin bright fibres all over dim tissue: 1 % of the voxels, 15 times as bright."""
    image = tissue()
    image[:, ::10, ::10] = 20_000
    low, high = limits(image)
    assert usual_top(image, low, high, 99.9) == high


def test_a_small_specimen_in_a_large_volume_keeps_its_range():
    image = np.random.default_rng(1).normal(100, 5, (66, 66, 66)).astype(np.float32)
    image[20:44, 20:44, 20:44] = tissue((24, 36, 24))[:, 12:]
    low, high = limits(image)
    assert usual_top(image, low, high, 99.9) == high


@pytest.mark.parametrize("shape", [(8, 8, 8), (3, 60, 60), (2, 5, 900)])
def test_too_few_places_leave_the_range_as_it_is(shape):
    image = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    image[0, 0, :2] = 1e5
    low, high = limits(image)
    assert usual_top(image, low, high, 99.9) == high


def test_nothing_is_left_out_below_the_limit():
    image, mask = torch.rand(9, 10, 11) * LIMIT * 0.999, torch.ones(9, 10, 11)
    assert keep_out_bright(image, mask) is mask


def test_a_ball_is_left_out_with_its_blurred_edge_and_nothing_else():
    sharp = with_ball(np.full((40, 40, 40), 0.5, np.float32), 7, 16.0, (20, 20, 20))
    image = torch.as_tensor(ndimage.gaussian_filter(sharp, 1.0))
    kept = keep_out_bright(image, torch.ones_like(image)) > 0
    assert not kept[image > 0.6].any()
    distance = np.sqrt(sum((g - 20) ** 2 for g in np.indices(image.shape)))
    assert kept.numpy()[distance > 7 + 2 * 3**0.5 + 3].all()


def test_what_a_mask_leaves_out_already_takes_nothing_with_it():
    image, mask = torch.full((12, 12, 12), 0.5), torch.ones(12, 12, 12)
    image[6, 6, 6], mask[6, 6, 6] = 20.0, 0.0
    assert keep_out_bright(image, mask) is mask
