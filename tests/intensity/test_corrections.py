"""Corrections against phantoms whose background, bias, stripes and distribution are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bigreg.geometry import Grid
from bigreg.intensity import BINS, Bins, Tiles, corrections, stripe_profile

SPACING = (8.0, 4.0, 5.0)
SHAPE = (25, 61, 50)
GRID = Grid.from_spacing(SHAPE, SPACING, (100, -40, 3))


def measured(image, length_um):
    tiles, bins = Tiles.of(GRID, length_um), Bins.of(image)
    histograms = np.zeros((*tiles.counts, BINS), np.int64)
    for index in np.ndindex(*tiles.counts):
        start, stop = tiles.box(index)
        histograms[index] = bins.counts(image[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))])
    return histograms, bins, tiles


@pytest.fixture(scope="module")
def tissue():
    """Textured tissue of mean 1000 all over."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 0.8)
    return 1000 * np.exp(0.25 * noise / noise.std())


@pytest.fixture(scope="module")
def bias():
    """A smooth field that falls by a factor of five."""
    z, y, x = (np.linspace(0, 1, n) for n in SHAPE)
    return np.exp(-1.0 * z[:, None, None] - 0.6 * y[:, None] ** 2 + 0.1 * np.sin(3 * x))


def test_histograms_of_tiles_add_up_to_that_of_the_image(tissue):
    histograms, bins, _ = measured(tissue, 60)
    assert np.array_equal(histograms.sum((0, 1, 2)), bins.counts(tissue))


def test_bins_know_values_to_a_hundredth(tissue):
    bins = Bins.of(tissue)
    place = np.clip(np.rint(bins.place(tissue)), 0, BINS - 1).astype(int)
    assert np.abs(bins.centres[place] / tissue - 1).max() < 0.012


def test_a_known_bias_is_taken_away_to_five_hundredths(tissue, bias):
    image = tissue * bias
    done = corrections(*measured(image, 40), bias_um=80).apply(image, GRID, (0, 0, 0))
    ratio = ndimage.gaussian_filter(done / tissue, 3)
    ratio /= ratio.mean()
    before = ndimage.gaussian_filter(bias, 3) / bias.mean()
    assert np.abs(before - 1).max() > 0.7
    assert np.abs(ratio - 1)[2:-2, 4:-4, 4:-4].max() < 0.12 and np.abs(ratio - 1).mean() < 0.05


def test_bias_is_estimated_of_tissue_and_not_of_the_dark_around_it(tissue, bias):
    z, y, x = np.indices(SHAPE)
    inside = ((z - 12) / 10) ** 2 + ((y - 30) / 26) ** 2 + ((x - 25) / 20) ** 2 < 1
    image = np.where(inside, tissue * bias, 5.0)
    done = corrections(*measured(image, 40), bias_um=80).apply(image, GRID, (0, 0, 0))
    ratio = np.log(done / tissue)[inside]
    assert ratio.std() < 0.3 * np.log(bias)[inside].std()


def test_a_known_background_is_taken_away_and_cells_stay():
    z, y, x = (np.linspace(0, 1, n) for n in SHAPE)
    glow = 300 + 200 * z[:, None, None] + 150 * np.cos(2 * y[:, None]) + 0 * x
    cells = np.zeros(SHAPE)
    cells[tuple(np.random.default_rng(1).integers(2, np.subtract(SHAPE, 2), (60, 3)).T)] = 30000
    cells = ndimage.gaussian_filter(cells, 1.0)
    image = glow + cells
    done = corrections(*measured(image, 40), background_um=120).apply(image, GRID, (0, 0, 0))
    empty = cells < 1
    assert np.abs(done[empty]).mean() < 0.1 * glow.mean()
    assert np.percentile(done[cells > 500] / cells[cells > 500], [5, 95]) == pytest.approx([1, 1], abs=0.15)


def test_clipping_is_at_percentiles_of_the_whole(tissue):
    done = corrections(*measured(tissue, 60), clip=(5, 90)).apply(tissue, GRID, (0, 0, 0))
    assert [done.min(), done.max()] == pytest.approx(np.percentile(tissue, [5, 90]), rel=0.012)


def test_local_contrast_evens_out_what_is_dim_and_keeps_the_order(tissue, bias):
    image = tissue * bias
    found = corrections(*measured(image, 40), contrast_um=80, contrast_limit=20)
    done = found.apply(image, GRID, (0, 0, 0))
    dim, bright = (slice(-6, None), slice(-15, None)), (slice(0, 6), slice(0, 15))
    assert image[bright].std() / image[dim].std() > 3
    assert 0.6 < done[bright].std() / done[dim].std() < 1.7
    one = np.array(
        [found.apply(np.full((1, 1, 1), v), GRID, (12, 30, 25))[0, 0, 0] for v in np.linspace(100, 2000, 20)]
    )
    assert (np.diff(one) >= 0).all()


@pytest.mark.parametrize("wanted", [{"background_um": 120}, {"bias_um": 80}, {"clip": (1, 99)}, {"contrast_um": 80}])
def test_a_box_is_corrected_as_in_the_whole(tissue, bias, wanted):
    image = (tissue * bias).astype("f4")
    found = corrections(*measured(image, 40), **wanted)
    whole = found.apply(image, GRID, (0, 0, 0))
    box = slice(7, 20), slice(11, 60), slice(3, 31)
    np.testing.assert_allclose(found.apply(image[box], GRID, (7, 11, 3)), whole[box], rtol=1e-5)


def test_a_coarser_level_is_corrected_as_the_mean_of_the_finer(tissue, bias):
    from bigreg.volumes import block_mean

    image = (tissue * bias).astype("f4")
    found = corrections(*measured(image, 40), bias_um=80)
    coarse = found.apply(block_mean(image, (1, 2, 2)), GRID.downsampled((1, 2, 2)), (0, 0, 0))
    fine = block_mean(found.apply(image, GRID, (0, 0, 0)), (1, 2, 2))
    assert np.abs(coarse / fine - 1).max() < 0.02


@pytest.mark.parametrize(
    ("along", "across", "shape", "segment"),
    [("x", 1, (6, 60, 500), (1, 1, 250)), ("yx", 0, (60, 30, 40), (1, 30, 40))],
)
def test_known_stripes_are_reduced_by_four_fifths_and_cells_stay(along, across, shape, segment):
    rng = np.random.default_rng(5)
    axes = ["zyx".index(a) for a in along]
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 0.8)
    gain = np.exp(rng.uniform(-0.5, 0.0, [1 if a in axes else n for a, n in enumerate(shape)]))
    cells = np.zeros(shape)
    cells[tuple(rng.integers(2, np.subtract(shape, 2), (60, 3)).T)] = 4e5
    cells = ndimage.gaussian_filter(cells, 1.5)
    clean = 1000 * np.exp(0.1 * noise / noise.std()) + cells
    half = 7
    pad = [(2 * half, 2 * half) if a == across else (0, 0) for a in range(3)]
    profile = stripe_profile(np.pad(clean * gain, pad, mode="edge"), axes, across, 2 * half + 1, segment, 10.0)
    assert profile.shape == tuple(-(-n // s) for n, s in zip(shape, segment, strict=True))
    for axis in range(3):
        profile = profile.repeat(segment[axis], axis)
    done = clean * gain * np.exp(-profile)

    def stripes(image):
        """How bright lines are next to those nearby, at distances that a stripe is told by."""
        lines = np.log(image / clean).mean(axis=tuple(axes), keepdims=True)
        return np.moveaxis(lines - ndimage.uniform_filter1d(lines, 5, across), across, 0)[3:-3].std()

    assert stripes(done) < 0.2 * stripes(clean * gain)
    at = cells > 3000
    assert np.median((done / clean)[at]) == pytest.approx(np.median(gain), rel=0.1)
    contrast = done[at].mean() / np.median(done)
    assert contrast == pytest.approx(clean[at].mean() / np.median(clean), rel=0.05)


def test_background_is_no_stripe():
    profile = stripe_profile(np.random.default_rng(0).uniform(0, 9, (4, 24, 30)), [2], 1, 5, (1, 1, 30), 10.0)
    assert not profile.any() and profile.shape == (4, 16, 1)


def test_a_part_of_the_image_has_the_profile_of_the_whole(tissue):
    half = 3
    whole = stripe_profile(
        np.pad(tissue, [(0, 0), (6, 6), (0, 0)], mode="edge"), [2], 1, 2 * half + 1, (1, 1, 50), 10.0
    )
    part = stripe_profile(tissue[:, 9:44], [2], 1, 2 * half + 1, (1, 1, 50), 10.0)
    assert np.array_equal(part, whole[:, 15:38])
