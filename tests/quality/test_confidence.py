"""What is told of a map's errors without the truth: on images whose wrong places are known because they were put in."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from bigreg.quality.confidence import HALO, LARGE, RISKY, STRUCTURED, TILE, risk, said
from bigreg.quality.confidence_cpu import step_sums
from bigreg.quality.confidence_model import MODEL
from bigreg.quality.tile_features import features, pooled
from bigreg.testing import simulated_cuda

SHAPE = (88, 96, 104)
TILES = tuple(n // TILE for n in SHAPE)


@pytest.fixture(scope="module")
def anatomy():
    """Cells and coarser structure, intensities about 0 .. 1."""
    rng = np.random.default_rng(5)
    fine, coarse = (ndimage.gaussian_filter(rng.standard_normal(SHAPE), s) for s in (1.5, 5))
    image = fine / fine.std() + coarse / coarse.std()
    return (0.4 + 0.15 * image).astype(np.float32)


def bump(centre, radius, length):
    """(3, z, y, x) displacement of `length` voxels in a ball that falls off smoothly."""
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.indices(SHAPE), centre, strict=True)))
    height = length / (1 + np.exp(np.minimum(distance - radius, 50.0)))
    return np.stack([0.2 * height, 0.9 * height, -0.4 * height])


def seen(anatomy, error, noise=0.01, seed=1):
    """Fixed, and moving as a map that is wrong by `error` brings it there."""
    rng = np.random.default_rng(seed)
    moving = ndimage.map_coordinates(anatomy, np.indices(SHAPE) + error, order=1, mode="nearest")
    moving = 0.1 + 0.8 * moving  # another gain
    return tuple((i + rng.normal(0, noise, SHAPE)).astype(np.float32) for i in (anatomy, moving))


def described(fixed, moving, mask=None, **more):
    return of_images(fixed, moving, np.ones(SHAPE, bool) if mask is None else mask, **more)


def of_images(*images, **more):
    """Features of fixed, moving and mask, as arrays."""
    return features(pooled(*(torch.as_tensor(np.ascontiguousarray(i)) for i in images)), **more)


def test_places_that_are_off_by_more_than_two_voxels_are_flagged(anatomy):
    error = bump((30, 30, 30), 22, 5.0) + bump((62, 66, 76), 17, -8.0)
    found = risk(described(*seen(anatomy, error)))
    true = np.sqrt((error**2).sum(0)).reshape(TILES[0], 8, TILES[1], 8, TILES[2], 8).mean((1, 3, 5)) > LARGE
    flagged = found >= RISKY
    assert 0.03 < true.mean() < 0.3
    assert (flagged & true).sum() / true.sum() >= 0.9
    assert (flagged & true).sum() / flagged.sum() >= 0.5


def test_a_right_map_is_flagged_nowhere(anatomy):
    assert (risk(described(*seen(anatomy, np.zeros((3, *SHAPE))))) >= RISKY).mean() < 0.01


def test_noise_that_hides_all_structure_is_risk(anatomy):
    right = np.zeros((3, *SHAPE))
    clean, noisy = (risk(described(*seen(anatomy, right, noise=n))) for n in (0.01, 1.5))
    assert clean.mean() < 0.05 and (noisy >= RISKY).mean() > 0.5


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.25])
@pytest.mark.parametrize("signed", [True, False])
def test_noise_of_a_camera_does_not_make_a_right_map_wrong(anatomy, noise, signed):
    assert risk(described(*seen(anatomy, np.zeros((3, *SHAPE)), noise=noise), signed=signed)).mean() < 0.2


@pytest.mark.parametrize("noise", [0.01, 0.1])
@pytest.mark.parametrize("signed", [True, False])
def test_a_map_that_is_off_by_six_voxels_is_mostly_risk(anatomy, noise, signed):
    error = np.zeros((3, *SHAPE))
    error[1] = 6.0
    assert risk(described(*seen(anatomy, error, noise=noise), signed=signed)).mean() > 0.6


@pytest.mark.parametrize("contrast", [lambda m: 1 - m, lambda m: 4 * m * (1 - m)], ids=["inverted", "dark both ways"])
def test_right_and_wrong_maps_are_told_apart_whatever_the_contrast(anatomy, contrast):
    error = np.zeros((3, *SHAPE))
    (fixed, right), (_, wrong) = seen(anatomy, error), seen(anatomy, error + 4.0)
    told_right, told_wrong = (risk(described(fixed, contrast(m), signed=False)).mean() for m in (right, wrong))
    assert told_right < 0.15 and told_wrong > 0.6


@pytest.mark.parametrize("size", [(10, 96, 104), (16, 16, 16)], ids=["slab", "cube"])
def test_thin_and_small_volumes_are_not_doubted_for_their_size(anatomy, size):
    whole = tuple(-(-n // TILE) * TILE for n in size)
    box, padding = tuple(map(slice, size)), [(0, w - n) for w, n in zip(whole, size, strict=True)]
    fixed, moving = (np.pad(i[box], padding) for i in seen(anatomy, np.zeros((3, *SHAPE))))
    found = risk(of_images(fixed, moving, np.pad(np.ones(size, bool), padding)))
    assert np.nanmean(found) < 0.1


def test_missing_tissue_is_unknown_and_what_lies_beside_it_is_told(anatomy):
    fixed, moving = seen(anatomy, np.zeros((3, *SHAPE)))
    moving[24:64, 24:64, 24:64] = np.random.default_rng(3).normal(0, 0.01, (40, 40, 40))
    found = risk(described(fixed, moving))
    assert np.isnan(found[4:7, 4:7, 4:7]).all() and np.isfinite(found).mean() > 0.8


def test_tissue_without_structure_in_moving_is_risk(anatomy):
    fixed, moving = seen(anatomy, np.zeros((3, *SHAPE)))
    moving[24:64, 24:64, 24:64] = 0.1
    found = risk(described(fixed, moving))
    assert found[4:7, 4:7, 4:7].min() > RISKY


def test_a_large_error_is_named_in_voxels_and_micrometres():
    assert said((50.0, 50.0, 50.0)) == "2 voxels (50 µm)"
    assert said((8.0, 5.2, 5.2)) == "2 voxels (8 × 5.2 × 5.2 µm)"


def test_along_an_edge_the_least_curvature_is_small():
    image = np.broadcast_to(np.sin(np.arange(SHAPE[2]) / 3), SHAPE).astype(np.float32)
    rough = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 2).astype(np.float32)
    rough /= rough.std()
    inner = (slice(3, -3),) * 3
    edge, full = (described(i, i)["curvature"][inner].mean() for i in (image, rough))
    assert edge < full - 1.0


def test_evidence_falls_with_noise_and_is_the_same_for_inverted_contrast(anatomy):
    right = np.zeros((3, *SHAPE))
    clean, noisy = (described(*seen(anatomy, right, noise=n))["evidence"].mean() for n in (0.01, 0.3))
    assert noisy < clean - 2
    fixed, moving = seen(anatomy, right)
    inverted = described(fixed, 1 - moving, signed=False)["evidence"]
    assert abs(inverted.mean() - described(fixed, moving)["evidence"].mean()) < 0.5


def test_a_tile_beside_the_sample_has_no_detail_of_its_own(anatomy):
    anatomy = anatomy.copy()
    anatomy[:, :, 48:] = 0.0
    found = described(*seen(anatomy, np.zeros((3, *SHAPE))))
    structured = found["detail"] >= STRUCTURED
    assert structured[:, :, :6].mean() > 0.8 and not structured[:, :, 6:].any()
    assert (found["texture"][:, :, 6] >= STRUCTURED).all()  # its window holds a part of the sample


def test_features_of_blocks_with_halo_are_those_of_the_whole(anatomy):
    error = bump((30, 30, 30), 16, 5.0)
    fixed, moving = seen(anatomy, error)
    mask = np.ones(SHAPE, bool)
    mask[:, :, 90:] = False
    whole = described(fixed, moving, mask)
    start, stop = (0, 5, 4), (4, 9, 8)
    low, high = (np.clip(v, 0, TILES) for v in (np.subtract(start, HALO), np.add(stop, HALO)))
    box = tuple(slice(a * TILE, b * TILE) for a, b in zip(low, high, strict=True))
    part = of_images(fixed[box], moving[box], mask[box])
    inner = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))
    assert set(MODEL) <= set(part)
    for name in part:
        expected = whole[name][tuple(map(slice, start, stop))]
        assert np.allclose(part[name][inner], expected, atol=2e-3, equal_nan=True), name


def test_where_the_images_do_not_overlap_nothing_is_told(anatomy):
    mask = np.ones(SHAPE, bool)
    mask[:, :, 60:] = False
    found = risk(described(*seen(anatomy, np.zeros((3, *SHAPE))), mask))
    assert np.isnan(found[:, :, 8:]).all() and np.isfinite(found[:, :, :7]).all()


def test_inverted_contrast_counts_only_where_it_may(anatomy):
    fixed, moving = seen(anatomy, np.zeros((3, *SHAPE)))
    signed, free = (risk(described(fixed, 1 - moving, signed=s)).mean() for s in (True, False))
    assert signed > 0.9 and free < RISKY


def test_patches_that_disagree_are_risk_whatever_the_images_say(anatomy):
    found = described(*seen(anatomy, np.zeros((3, *SHAPE))))
    disagreement = np.zeros(TILES)
    disagreement[2, 3, 4] = 3.0
    told = risk(found, disagreement)
    assert told[2, 3, 4] >= 0.5 and told[8, 8, 8] == risk(found)[8, 8, 8]


def test_sums_over_tiles_are_those_of_numpy():
    rng = np.random.default_rng(2)
    shape, reach, edge = (8, 4, 12), 1, 4
    wide = tuple(n + 2 * reach for n in shape)
    a, b = rng.random(shape, np.float32), rng.random(wide, np.float32)
    known, moving_known = ((rng.random(s) > 0.3).astype(np.float32) for s in (shape, wide))
    out = np.empty((27, 9, 2, 1, 3), np.float32)
    step_sums(a, known, b, moving_known, 0, out)
    for step, at in enumerate(np.ndindex(3, 3, 3)):
        box = tuple(slice(d, d + n) for d, n in zip(at, shape, strict=True))
        w, m = known * moving_known[box], b[box]
        for kind, values in enumerate(
            (w, w * a, w * m, w * a**2, w * m**2, w * a * m, w * a**3, w * a**4, w * a**2 * m)
        ):
            expected = values.reshape(2, edge, 1, edge, 3, edge).sum((1, 3, 5))
            np.testing.assert_allclose(out[step, kind], expected, rtol=1e-5)


@pytest.mark.parametrize("signed", [True, False])
def test_a_gpu_finds_the_features_of_the_cpu(anatomy, signed):
    box = (slice(24, 64), slice(0, 48), slice(40, 80))
    fixed, moving = (torch.as_tensor(i[box].copy()) for i in seen(anatomy, bump((44, 20, 60), 8, 4.0)))
    mask = torch.ones(fixed.shape, dtype=torch.bool)
    mask[:, :, 33:] = False
    here = features(pooled(fixed, moving, mask), signed=signed)
    with simulated_cuda() as device:
        there = features(pooled(*(t.cuda() for t in (fixed, moving, mask))), signed=signed)
    assert device.counts.waits <= 1 and not device.counts.unordered  # only what is found waits
    for name, values in here.items():
        np.testing.assert_allclose(there[name], values, rtol=1e-3, atol=2e-3, err_msg=name)


def test_cells_that_jut_out_of_the_images_hold_what_is_there():
    image = torch.arange(3 * 4 * 5.0).reshape(3, 4, 5)
    cells = pooled(image, 2 * image, torch.ones(3, 4, 5, dtype=torch.bool))
    assert cells.count.shape == (2, 2, 3)
    assert cells.count[1, 0, 0] == 4 and cells.count[1, 1, 2] == 2 and cells.count[0, 0, 0] == 8
    assert cells.fixed[1, 1, 2] == image[2, 2:, 4].mean() and torch.equal(cells.moving, 2 * cells.fixed)
