"""Impulses put into images at known places."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bigreg.intensity.impulses import COMMON, LIKELY, TRIMMED, measure_impulses, without_impulses


def tissue(shape=(30, 34, 38), seed=0, noise=0.01):
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    image = 2000 + 600 * texture / texture.std() + 4000 * noise * rng.normal(size=shape)
    return np.clip(np.rint(image), 0, 65535).astype(np.uint16)


def spoiled(image, share, seed=1):
    chance = np.random.default_rng(seed).random(image.shape)
    out = image.copy()
    out[chance < share / 2], out[chance > 1 - share / 2] = 0, 65535
    return out, (chance < share / 2) | (chance > 1 - share / 2)


@pytest.mark.parametrize("share", [0.002, 0.04])
def test_salt_and_pepper_is_taken_out(share):
    dirty, where = spoiled(tissue(), share)
    _, floor = measure_impulses([dirty])
    clean, found = without_impulses(dirty, floor)
    off = np.abs(clean.astype(float) - tissue())
    assert found > 0
    assert off[where].mean() < 300  # half an SD of the texture
    assert off[~where].mean() < 20  # half an SD of the noise


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_images_without_impulses_are_said_to_have_none(noise):
    assert measure_impulses([tissue(noise=noise)])[0] < COMMON


@pytest.mark.parametrize("share", [0.002, 0.04, 0.08])
def test_images_with_impulses_are_said_to_have_them(share):
    assert measure_impulses([spoiled(tissue(), share)[0]])[0] >= COMMON


def test_an_edge_is_not_taken_for_impulses():
    image = np.full((12, 12, 12), 100, np.uint16)
    image[:, 6:, :] = 5000
    np.testing.assert_array_equal(without_impulses(image, 10.0)[0], image)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_the_sweep_is_its_definition(dtype):
    rng = np.random.default_rng(3)
    image = (rng.standard_t(1.5, (7, 8, 9)) * 10 + 100).clip(0, 127).astype(dtype)
    expected = image.copy()
    for place in np.ndindex(image.shape):
        box = tuple(slice(max(p - 1, 0), p + 2) for p in place)
        near = list(image[box].ravel())
        near.remove(image[place])
        near = np.sort(np.array(near))
        if len(near) < 11:
            continue
        low, high = float(near[TRIMMED - 1]), float(near[-TRIMMED])
        if max(image[place] - high, low - image[place]) > max(LIKELY * (high - low), 4.0):
            expected[place] = near[len(near) // 2]
    found, count = without_impulses(image, 4.0)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype and count > 10
