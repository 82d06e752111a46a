"""Made-up pairs: their maps are what they say, invertible, and no longer than wanted. Contrast changes are bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from bigreg.training.augment import blurred, contrast
from bigreg.training.config import Contrast, Deformation
from bigreg.training.sources import Patch
from bigreg.training.synthetic import UNIT, deformed, margin, velocity
from bigreg.transforms.field import compose, identity, min_determinant, sample

CPU = torch.device("cpu")
SETTINGS = [
    Deformation(cells=[8, 16], largest=3.0),
    Deformation(cells=[4], largest=2.0, least=1.0),
    Deformation(cells=[12, 24], largest=6.0, roughness=0.5),
]


def made(settings, seed=0, shape=(26, 30, 34)):
    edge = 2 * margin(settings)
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal([n + edge for n in shape]), 2.5)
    image = (image / image.std()).astype(np.float32)
    labels = (image > 0).astype(np.int64)
    patch = Patch(image[None], np.ones_like(image)[None], np.ones(3), labels[None])
    return deformed(patch, settings, np.random.default_rng(seed), CPU)


def seen_through(image, displacement):
    place = identity(displacement.shape[1:]) + displacement
    return sample(image[None], place)[0]


INNER = (slice(5, -5),) * 3


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_half_way_maps_bring_both_images_to_one(settings):
    images, masks, _, known = made(settings)
    a, b = seen_through(images[0], known.to_fixed), seen_through(images[1], known.to_moving)
    error = (a - b)[INNER].abs()
    before = (images[0] - images[1])[INNER].abs()
    assert float(error.mean()) < 0.1 * float(before.mean())
    assert all(bool((m == 1).all()) for m in masks)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_whole_maps_bring_each_image_onto_the_other(settings):
    images, _, labels, known = made(settings)
    for there, (a, b) in ((known.fixed_to_moving, (0, 1)), (known.moving_to_fixed, (1, 0))):
        place = identity(there.shape[1:]) + there
        top = torch.tensor(there.shape[1:]).reshape(3, 1, 1, 1) - 1
        seen = ((place >= 0) & (place <= top)).all(0)
        gap = (seen_through(images[b], there) - images[a])[seen].abs().mean()
        assert float(gap) < 0.12 * float((images[b] - images[a])[seen].abs().mean())
        same = sample(labels[b][None].float(), place, "nearest")[0].long() == labels[a]
        assert float(same[seen].float().mean()) > 0.85  # nearest of nearest: borders of labels move by up to a voxel


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_maps_are_invertible_and_inverse_to_one_another(settings, seed):
    _, _, _, known = made(settings, seed)
    for name, field in vars(known).items():
        assert float(min_determinant(field, UNIT).min()) > 0.05, name
    for a, b in ((known.to_fixed, known.to_moving), (known.fixed_to_moving, known.moving_to_fixed)):
        edge = margin(settings) * 2
        left = compose(a, b, UNIT)[(slice(None), *[slice(edge, -edge)] * 3)]
        if left.numel():
            assert float(left.square().sum(0).sqrt().max()) < 0.15


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_voxel_moves_further_than_wanted(settings):
    for seed in range(5):
        v, _ = velocity((30, 30, 30), settings, np.random.default_rng(seed), CPU)
        assert float(v.square().sum(0).sqrt().max()) <= settings.largest * (1 + 1e-5)
        _, _, _, known = made(settings, seed)
        assert float(known.to_fixed.square().sum(0).sqrt().max()) <= settings.largest * (1 + 1e-4)
        assert float(known.fixed_to_moving.square().sum(0).sqrt().max()) <= 2 * settings.largest * (1 + 1e-4)


def test_the_same_random_numbers_give_the_same_pair():
    one, other = made(SETTINGS[0], 3), made(SETTINGS[0], 3)
    assert torch.equal(one[0][0], other[0][0]) and torch.equal(one[3].to_fixed, other[3].to_fixed)


def test_contrast_without_ranges_does_nothing():
    image = torch.rand(8, 9, 10)
    nothing = Contrast(gamma=(1, 1), gain=(1, 1), offset=(0, 0), noise=(0, 0), blur=(0, 0), bias=0)
    assert torch.allclose(contrast(image, nothing, np.random.default_rng(0)), image, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        ({"gamma": (0.5, 2.0)}, 0.26),
        ({"gain": (0.8, 1.2)}, 0.21),
        ({"offset": (-0.1, 0.1)}, 0.101),
        ({"bias": 0.3}, 0.36),
    ],
)
def test_each_contrast_changes_the_image_within_its_range(change, bound):
    image = torch.rand(8, 9, 10)
    plain = {"gamma": (1, 1), "gain": (1, 1), "offset": (0, 0), "noise": (0, 0), "blur": (0, 0), "bias": 0}
    for seed in range(5):
        gap = (contrast(image, Contrast(**{**plain, **change}), np.random.default_rng(seed)) - image).abs()
        assert 1e-4 < float(gap.max()) <= bound


def test_noise_has_the_wanted_size_and_follows_the_random_numbers():
    settings = Contrast(gamma=(1, 1), gain=(1, 1), offset=(0, 0), noise=(0.1, 0.1), blur=(0, 0), bias=0)
    image = torch.zeros(30, 30, 30)
    one, other = (contrast(image, settings, np.random.default_rng(4)) for _ in range(2))
    assert torch.equal(one, other)
    assert float(one.std()) == pytest.approx(0.1, rel=0.03)


def test_blur_is_the_gaussian_of_scipy():
    image = np.random.default_rng(0).random((12, 13, 14)).astype(np.float32)
    ours = blurred(torch.from_numpy(image), 1.3).numpy()
    assert np.allclose(ours, ndimage.gaussian_filter(image, 1.3, mode="nearest", truncate=3), atol=2e-3)
