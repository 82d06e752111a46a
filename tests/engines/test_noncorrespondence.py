"""What has no counterpart in a patch: where it is, that nothing else is, and that a wrong start is no hole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bigreg.engines import PatchPair, load_engine
from bigreg.engines import noncorrespondence as nc
from bigreg.geometry import Lattice
from bigreg.transforms import evaluate

SHAPE = (48, 48, 48)
LATTICE = Lattice((12, 12, 12), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), (4, 4, 4))
STILL = torch.zeros(3, *LATTICE.points)


def texture(seed):
    """Of a scale of two voxels, SD 0.2."""
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(1, 1, *(n + 4 for n in SHAPE), generator=g)
    values = torch.nn.functional.avg_pool3d(values, 3, 1)
    values = torch.nn.functional.avg_pool3d(values, 3, 1)[0, 0]
    return 0.5 + 0.2 * values / values.std()


def ball(centre=(24, 24, 24), radius=8.0):
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij")).float()
    return (index - torch.tensor(centre).reshape(3, 1, 1, 1)).square().sum(0).sqrt() < radius


def pair(fixed, moving, **more):
    """Both with noise of their own."""
    g = torch.Generator().manual_seed(99)
    fixed, moving = (image + 0.01 * torch.randn(SHAPE, generator=g) for image in (fixed, moving))
    one = torch.ones(SHAPE)
    return PatchPair(fixed[None], moving[None], one, one, LATTICE, **more)


def engine(**options):
    return load_engine("optimise", {"regularisation": 0.8, **options}, iterations=20)


def fit(found, truth):
    found = found > 0
    both = float((found & truth).sum())
    return both / float(truth.sum()), both / max(float(found.sum()), 1.0)


@pytest.mark.parametrize(("filled", "least"), [(0.0, 0.85), (0.5, 0.3), (1.0, 0.75)])
def test_a_hole_is_found_in_either_image(filled, least):
    """Least of it where it is as bright as the tissue: windows at its border then agree by their part outside."""
    image = texture(1)
    hollow = torch.where(ball(), filled, image)
    for images in (pair(image, hollow), pair(hollow, image)):
        found = nc.unmatched(images, STILL, "lncc")
        recall, precision = fit(found.where, ball())
        assert recall > least and precision > 0.75
        assert found.share == pytest.approx(float(found.where.mean()))


def test_the_bright_rim_of_a_bubble_takes_no_tissue_with_it():
    image = texture(1)
    bubble = torch.where(ball(), 0.0, image)
    bubble = torch.where(ball() & ~ball(radius=6.5), 1.5, bubble)
    recall, precision = fit(nc.unmatched(pair(image, bubble), STILL, "lncc").where, ball())
    assert recall > 0.85 and precision > 0.65


def test_swapped_images_and_the_velocity_negated_give_the_same():
    image = texture(1)
    images = pair(image, torch.where(ball(), 0.0, image))
    velocity = torch.randn(3, *LATTICE.points, generator=torch.Generator().manual_seed(3))
    there = nc.unmatched(images, velocity, "lncc")
    back = nc.unmatched(images.swapped(), -velocity, "lncc")
    assert there.any and torch.equal(there.where, back.where)
    assert torch.allclose(there.fit, back.fit, atol=1e-5)


def test_where_all_has_a_counterpart_nothing_is_left_out_and_nothing_changes():
    image = texture(1)
    images = pair(image, image)
    patch, found = nc.estimate_matching(engine(), images, "lncc")
    assert not found.any and not bool(found.where.any())
    assert torch.equal(patch.coefficients, engine().estimate(images).coefficients)


def test_where_neither_image_has_texture_there_is_no_hole():
    image = torch.where(ball(), 0.5, texture(1))
    assert not nc.unmatched(pair(image, image), STILL, "lncc").any


def test_spots_that_only_one_image_has_are_no_hole():
    image = texture(1)
    spots = image.clone()
    for place in range(8, 44, 12):
        spots[place : place + 3, 20:23, 20:23] = 2.0
    assert not nc.unmatched(pair(image, spots), STILL, "lncc").any


@pytest.mark.parametrize("shift", [0, 9])
def test_a_wrong_start_is_no_hole(shift):
    """Images that have nothing to do with one another, or lie too far apart."""
    image = texture(1)
    other = texture(2) if shift == 0 else torch.roll(image, shift, 0)
    patch, found = nc.estimate_matching(engine(), pair(image, other), "lncc")
    assert found.share == 0
    assert float(patch.confidence.mean()) < 0.5 * float(engine().estimate(pair(image, other)).confidence.mean())


def test_no_more_than_its_part_of_a_patch_is_left_out():
    image = texture(1)
    half = image.clone()
    half[:, :, :20] = 0.0
    assert nc.unmatched(pair(image, half), STILL, "lncc").share == 0
    tenth = image.clone()
    tenth[:, :, :6] = 0.0
    assert 0.05 < nc.unmatched(pair(image, tenth), STILL, "lncc").share <= nc.MOST


def test_tissue_is_not_drawn_into_a_hole():
    image = texture(1)
    images = pair(image, torch.where(ball(radius=10.0), 0.0, image), level=1)
    drawn = evaluate(engine().estimate(images).coefficients, (4, 4, 4)).norm(dim=0)
    patch, _ = nc.estimate_matching(engine(), images, "lncc")
    kept = evaluate(patch.coefficients, (4, 4, 4)).norm(dim=0)
    near = ball(radius=14.0)
    assert float(kept[near].mean()) < 0.5 * float(drawn[near].mean())


def test_confidence_knows_how_well_the_images_fit():
    image = texture(1)
    images = pair(image, torch.where(ball(radius=10.0), 0.0, image))
    plain = engine().estimate(images).confidence
    patch, _ = nc.estimate_matching(engine(), images, "lncc")
    ratio = patch.confidence / plain.clamp_min(1e-6)
    assert float(ratio[8, 8, 8]) < 0.1 and float(ratio[3, 3, 3]) > 0.8


def test_inverted_contrast_is_matched_by_the_squared_correlation():
    image = texture(1)
    images = pair(image, torch.where(ball(), 0.0, 1.0 - image))
    assert fit(nc.unmatched(images, STILL, "lncc_squared").where, ball())[0] > 0.7


def test_what_is_left_out_moves_with_each_image():
    image = texture(1)
    images = pair(image, image)
    velocity = torch.zeros(3, *LATTICE.points)
    velocity[0] = 3.0
    left = nc.left_out(images, velocity, ball().float())
    for mask, shift in ((left.fixed_mask, 3), (left.moving_mask, -3)):
        assert torch.equal(mask < 0.5, torch.roll(ball(), shift, 0))
    assert torch.equal(left.fixed, images.fixed) and replace(left, fixed_mask=images.fixed_mask).level == images.level


def test_of_several_channels_all_tell_and_labels_stay_whole():
    image = texture(9)
    images = pair(image, torch.where(ball(), 0.0, image))
    other = images.channels[0]
    labels = replace(other, labels=True)
    alone, both = (nc.unmatched(p, STILL, "lncc") for p in (images, replace(images, others=(other, labels))))
    assert alone.any and torch.equal(both.where, alone.where)
    matched = replace(other, moving=other.fixed)
    most = nc.unmatched(replace(images, others=(matched, matched)), STILL, "lncc")
    assert most.share < 0.2 * alone.share  # two of three channels have a counterpart
    rest = nc.left_out(replace(images, others=(other, labels)), STILL, alone.where)
    assert torch.equal(rest.others[0].fixed_mask, rest.fixed_mask) and float(rest.fixed_mask.min()) == 0
    assert float(rest.others[1].fixed_mask.min()) == 1
