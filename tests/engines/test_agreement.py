"""Agreement in detail, on pairs whose motion and whose differences are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bigreg.engines import PatchPair, load_engine
from bigreg.engines.agreement import agreement, without_detail
from bigreg.engines.channels import without_detail_of
from bigreg.geometry import Lattice
from bigreg.pipeline.tasks.estimate import METRICS
from bigreg.transforms import evaluate
from bigreg.transforms.field import identity, sample

LATTICE = Lattice((12, 12, 12), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), (4, 4, 4))
ENGINE = {"iterations": 8, "similarity": "mse", "regularisation": 0.01, "least_agreement": 0.99}


def smooth_noise(generator, shape, width):
    noise = torch.randn(1, 1, *(n + 2 * width for n in shape), generator=generator)
    for _ in range(2):
        noise = F.avg_pool3d(noise, width, 1, padding=width // 2)
    noise = noise[0, 0, : shape[0], : shape[1], : shape[2]]
    return (noise - noise.mean()) / noise.std()


def pair(seed, motion, stain, width=3):
    """Texture of a width moved apart by `motion` voxels (RMS), each image with a stain of its own (SD; the texture
    has 0.2) that is 3 voxels wide."""
    g = torch.Generator().manual_seed(seed)
    shape = LATTICE.grid.shape
    texture = 0.5 + 0.2 * smooth_noise(g, tuple(n + 16 for n in shape), width)
    c = F.avg_pool3d(torch.randn(3, *(n + 4 for n in LATTICE.points), generator=g), 5, 1)
    velocity = evaluate(c, LATTICE.samples)
    velocity = velocity * (motion / velocity.square().sum(0).mean().sqrt())
    index = identity(shape) + 8.0
    fixed, moving = (
        sample(texture[None], index + sign * velocity) + stain * smooth_noise(g, shape, 3)[None] for sign in (-1, 1)
    )
    one = torch.ones(shape)
    return PatchPair(fixed, moving, one, one, LATTICE, native=True), velocity


def error(patch, velocity):
    found = evaluate(patch.coefficients, LATTICE.samples)
    return float((found - velocity)[(slice(None), *(slice(6, -6),) * 3)].square().sum(0).sqrt().mean())


def agreed(images):
    return agreement(images.fixed, images.moving, images.fixed_mask * images.moving_mask)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", [{"similarity": "mse"}, {"similarity": "lncc", "regularisation": 0.8}])
def test_detail_that_differs_is_not_followed_and_motion_beside_it_is(seed, options):
    images, velocity = pair(seed, 0.4, 0.1, width=7)
    inside = velocity[(slice(None), *(slice(6, -6),) * 3)]
    unmoved = float(inside.square().sum(0).sqrt().mean())
    followed = load_engine("optimise", {**ENGINE, **options, "least_agreement": None}).estimate(images)
    without = load_engine("optimise", {**ENGINE, **options}).estimate(images)
    assert without.quality["agreement"] < 0.9 and without.quality["smoothed"] == 1
    assert error(without, velocity) < 0.75 * unmoved < 0.75 * error(followed, velocity)


def test_a_run_keeps_what_an_engine_finds_of_agreement():
    images, _ = pair(1, 0.4, 0.1, width=7)
    assert {"agreement", "smoothed"} <= set(load_engine("optimise", ENGINE).estimate(images).quality) <= set(METRICS)


def test_a_pair_without_its_detail_is_followed_alike_after_an_exchange():
    images, _ = pair(1, 0.4, 0.1, width=7)
    engine = load_engine("optimise", ENGINE)
    there, back = engine.estimate(images), engine.estimate(images.swapped())
    assert there.quality["smoothed"] == 1 and float(there.coefficients.abs().max()) > 0.1
    torch.testing.assert_close(back.coefficients, -there.coefficients, atol=1e-5, rtol=0)


def test_no_masked_voxel_enters_what_is_smoothed():
    images, _ = pair(2, 0.4, 0.1)
    mask = torch.ones(LATTICE.grid.shape)
    mask[:, :20] = 0
    spoilt = images.fixed.clone()
    spoilt[:, :, :20] = 100.0
    clean, same = (without_detail(i, mask)[:, :, 20:] for i in (images.fixed, spoilt))
    torch.testing.assert_close(same, clean, atol=0, rtol=0)
    flat = without_detail(torch.full_like(images.fixed, 0.7), mask)[:, :, 20:]
    torch.testing.assert_close(flat, torch.full_like(flat, 0.7))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("similarity", ["lncc", "mse", "mi"])
@pytest.mark.parametrize("motion", [0.1, 0.4])
def test_motion_between_images_that_are_alike_is_followed(seed, similarity, motion):
    images, _ = pair(seed, motion, 0.0)
    options = {**ENGINE, "similarity": similarity, "regularisation": 0.05}
    asked = load_engine("optimise", options).estimate(images)
    plain = load_engine("optimise", {**options, "least_agreement": None}).estimate(images)
    assert asked.quality["agreement"] > 0.99 and asked.quality["smoothed"] == 0
    torch.testing.assert_close(asked.coefficients, plain.coefficients, atol=0, rtol=0)


def test_of_images_that_do_not_move_it_is_the_correlation_of_their_detail():
    for stain, share in ((0.05, 0.94), (0.1, 0.8), (0.2, 0.5)):  # of the variance, where both have one spectrum
        found = [agreed(pair(seed, 1e-6, stain)[0]) for seed in range(4)]
        assert sum(found) / 4 == pytest.approx(share, abs=0.08)
    others = [pair(seed + 9, 1e-6, 0.0)[0].moving for seed in range(4)]
    unrelated = [agreed(replace(pair(seed, 1e-6, 0.0)[0], moving=other)) for seed, other in enumerate(others)]
    assert sum(unrelated) / 4 < 0.45  # a sign and a shift of each window always explain some


def test_a_shift_of_a_voxel_a_contrast_and_an_inverted_one_leave_it():
    images, _ = pair(1, 1e-6, 0.0)
    index = identity(LATTICE.grid.shape)
    shifted = sample(images.moving, index + torch.tensor([0.6, 0.0, -0.6]).reshape(3, 1, 1, 1))
    for moving in (images.moving, shifted, 0.3 * images.moving + 2, 1 - 2 * images.moving):
        assert agreed(replace(images, moving=moving)) > 0.97


def test_exchanging_the_images_leaves_it():
    images, _ = pair(4, 0.1, 0.1)
    assert agreed(images) == pytest.approx(agreed(images.swapped()), abs=1e-5)


def test_what_a_mask_leaves_out_does_not_count():
    images, _ = pair(2, 0.02, 0.0)
    mask = torch.ones(LATTICE.grid.shape)
    mask[:, :20] = 0
    clean = agreement(images.fixed, images.moving, mask)
    spoilt = images.moving.clone()
    spoilt[:, :, :20] = 100 * torch.rand(spoilt[:, :, :20].shape, generator=torch.Generator().manual_seed(0))
    assert agreement(images.fixed, spoilt, mask) == clean > 0.99
    assert agreement(images.fixed, spoilt, torch.zeros_like(mask)) == 1.0


def test_the_channel_that_agrees_best_decides_and_planes_are_taken():
    images, _ = pair(3, 0.02, 0.0)
    noise = torch.rand(images.moving.shape, generator=torch.Generator().manual_seed(0))
    both = agreement(torch.cat([noise, images.fixed]), torch.cat([images.moving, images.moving]), images.fixed_mask)
    assert both == agreed(images)
    flat = images.fixed[:, :1], images.moving[:, :1], images.fixed_mask[:1]
    assert agreement(*flat) == 1.0  # no voxel lies inside


def test_only_the_images_own_voxels_are_asked():
    images, _ = pair(5, 0.02, 0.2)
    patch = load_engine("optimise", ENGINE).estimate(replace(images, native=False))
    assert "agreement" not in patch.quality and float(patch.coefficients.abs().max()) > 0


def test_a_start_is_where_a_pair_without_its_detail_begins():
    images, _ = pair(6, 0.02, 0.1, width=7)
    start = torch.zeros(3, *LATTICE.points)
    start[0] = 1.0
    images = replace(images, fixed=images.fixed.roll(2, 1), start=start)  # a voxel either way bring them together
    patch = load_engine("optimise", ENGINE).estimate(images)
    assert patch.quality["smoothed"] == 1
    torch.testing.assert_close(patch.coefficients[0, 4:-4, 4:-4, 4:-4].mean(), torch.tensor(1.0), atol=0.05, rtol=0)


def test_every_channel_is_followed_without_its_detail_and_labels_keep_their_weight():
    images, _ = pair(3, 0.4, 0.1, width=7)
    engine = load_engine("optimise", ENGINE)
    halves = replace(images, weight=0.5, others=(replace(images.channels[0], weight=0.5),))
    alone, twice = engine.estimate(images), engine.estimate(halves)
    assert alone.quality["smoothed"] == twice.quality["smoothed"] == 1
    torch.testing.assert_close(twice.coefficients, alone.coefficients, atol=1e-4, rtol=0)

    labels = replace(images.channels[0], labels=True, weight=2.0)
    without = without_detail_of(replace(images, others=(labels,)), 16.0)
    assert without.others[0].weight == 32.0 and without.others[0].fixed is images.fixed
