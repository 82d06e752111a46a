"""Sums over regions: the definitions in float64, and blocks that add up to the whole."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from bigreg.quality.metrics import JointHistogram, RegionSums, SeamSummary, moments, seam_ratio, structural_similarity
from bigreg.quality.metrics.regions import BINS

SHAPE = (12, 14, 16)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    a = ndimage.gaussian_filter(rng.random(SHAPE), 1)
    a = (a - a.min()) / np.ptp(a)
    b = np.clip(1 - a**2 + 0.1 * rng.standard_normal(SHAPE), 0, 1)
    regions = rng.choice([0, 7, 312782616], SHAPE)
    return a, b, regions


def in_blocks(make, *arrays):
    total = None
    for z in (slice(0, 5), slice(5, 12)):
        for x in (slice(0, 3), slice(3, 16)):
            part = make(*(v[z, :, x] for v in arrays))
            total = part if total is None else total + part
    return total


def test_correlation_of_each_region_is_pearsons(images):
    a, b, regions = images
    sums = in_blocks(lambda a, b, r: RegionSums.of(r, moments(a, b)), *images)
    for region, value in zip(sums.ids, sums.correlation(), strict=True):
        own = regions == region
        assert value == pytest.approx(np.corrcoef(a[own], b[own])[0, 1], abs=1e-9)


def test_correlation_with_a_constant_is_not_known(images):
    sums = RegionSums.of(images[2], moments(images[0], np.full(SHAPE, 0.3)))
    assert np.isnan(sums.correlation()).all()


def test_greatest_values_and_what_is_nan_in_blocks(images):
    a, _, regions = images
    values = np.where(a > 0.8, np.nan, a)
    found = in_blocks(lambda v, r: RegionSums.of(r, {"v": v, "n": np.isfinite(v)}, {"v": v}), values, regions)
    for i, region in enumerate(found.ids):
        own = values[regions == region]
        assert found.mean("v", "n")[i] == pytest.approx(np.nanmean(own))
        assert found.largest["v"][i] == np.nanmax(own)


def test_information_of_each_region_is_that_of_its_histogram(images):
    a, b, regions = images
    joint = in_blocks(lambda a, b, r: JointHistogram.of(r, a, b), *images)
    for i, region in enumerate(joint.ids):
        own = regions == region
        p = np.histogram2d(a[own], b[own], bins=BINS, range=((0, 1), (0, 1)))[0] / own.sum()
        entropy = lambda q: -(q[q > 0] * np.log(q[q > 0])).sum()  # noqa: E731
        first, second, both = entropy(p.sum(1)), entropy(p.sum(0)), entropy(p)
        assert joint.information[i] == pytest.approx(first + second - both)
        assert joint.normalised[i] == pytest.approx((first + second) / both)


def test_ssim_is_its_definition_window_by_window(images):
    a, b, _ = images
    mask = np.ones(SHAPE, bool)
    mask[0, 0, 0] = False
    found = structural_similarity(a, b, mask, radius=2)
    for index in [(2, 2, 3), (5, 6, 7), (9, 11, 13)]:
        box = tuple(slice(i - 2, i + 3) for i in index)
        p, q = a[box].ravel(), b[box].ravel()
        covariance = np.cov(p, q)
        c1, c2 = 0.01**2, 0.03**2
        expected = (2 * p.mean() * q.mean() + c1) * (2 * covariance[0, 1] + c2)
        expected /= (p.mean() ** 2 + q.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)
        assert found[index] == pytest.approx(expected)
    assert np.isnan(found[2, 2, 2]) and np.isnan(found[1, 6, 7])  # the mask, and the border, in the window
    assert np.allclose(structural_similarity(a, a, radius=2)[2:-2, 2:-2, 2:-2], 1)


def test_seams_of_blocks_add_up_to_the_whole():
    field = torch.as_tensor(
        ndimage.gaussian_filter(np.random.default_rng(2).standard_normal((3, *SHAPE)), (0, 2, 2, 2))
    )
    field[:, 6:] += 0.01
    faces, spacing = [[6], [7], [8, 12]], (4.0, 1.5, 2.5)
    total = SeamSummary()
    for start in np.ndindex(3, 2, 3):
        start = np.multiply(start, (5, 9, 6))
        stop = np.minimum(np.add(start, (5, 9, 6)), SHAPE)
        low, high = np.maximum(start - 2, 0), np.minimum(stop + 2, SHAPE)
        box = tuple(map(slice, low, high))
        core = list(zip(start.tolist(), stop.tolist(), strict=True))
        total += SeamSummary.of(field[(slice(None), *box)], spacing, faces, start=low.tolist(), core=core)
    assert total.ratio == pytest.approx(seam_ratio(field, spacing, faces))
    assert total.face_samples == SeamSummary.of(field, spacing, faces).face_samples
