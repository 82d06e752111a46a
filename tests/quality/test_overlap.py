"""Labels on labels: the definitions, SimpleITK's figures, and blocks that add up to the whole."""

import numpy as np
import pytest
from scipy import ndimage

from bigreg.quality.metrics import LabelCounts, SurfacePoints, surface_distance
from bigreg.quality.metrics.overlap import surface

SHAPE, SPACING = (17, 23, 29), (4.0, 1.5, 2.5)


def blobs(seed, shift=0):
    """Labels 0 .. 3 in smooth patches, the last with the id of an atlas."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 3)
    labels = np.digitize(noise / noise.std(), [-0.5, 0.4, 1.0])
    return np.roll(np.where(labels == 3, 312782616, labels), shift, 2)


def gathered(labels, block, budget=10**6, known=None):
    points = SurfacePoints(budget)
    for start in np.ndindex(*(-(-n // b) for n, b in zip(SHAPE, block, strict=True))):
        start = np.multiply(start, block)
        stop = np.minimum(start + block, SHAPE)
        low, high = np.maximum(start - 1, 0), np.minimum(stop + 1, SHAPE)
        box = tuple(map(slice, low, high))
        core = tuple(map(slice, start - low, stop - low))
        points.add(labels[box], tuple(low), core, None if known is None else known[box])
    return points


def test_overlap_of_blocks_adds_up_to_the_definitions():
    a, b = blobs(0), blobs(0, shift=2)
    known = np.random.default_rng(1).random(SHAPE) < 0.9
    total = LabelCounts()
    for z in (slice(0, 5), slice(5, 17)):
        for x in (slice(0, 11), slice(11, 29)):
            total += LabelCounts.of(a[z, :, x], b[z, :, x], known[z, :, x])
    assert total.ids.tolist() == [1, 2, 312782616]
    for label, dice, jaccard in zip(total.ids, total.dice, total.jaccard, strict=True):
        p, q = (a == label) & known, (b == label) & known
        assert dice == pytest.approx(2 * (p & q).sum() / (p.sum() + q.sum()))
        assert jaccard == pytest.approx((p & q).sum() / (p | q).sum())


def test_a_label_of_one_image_alone_has_no_overlap():
    counts = LabelCounts.of(np.array([[[1, 1, 0]]]), np.array([[[2, 0, 0]]]))
    assert counts.ids.tolist() == [1, 2]
    assert counts.dice.tolist() == counts.jaccard.tolist() == [0.0, 0.0]


def test_overlap_and_hausdorff_distance_are_those_of_simpleitk():
    sitk = pytest.importorskip("SimpleITK", reason="needs the extra 'test'")
    a, b = blobs(0) == 2, blobs(0, shift=2) == 2
    images = [sitk.GetImageFromArray(v.astype(np.uint8)) for v in (a, b)]
    for image in images:
        image.SetSpacing(SPACING[::-1])
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    counts = LabelCounts.of(a.astype(int), b.astype(int))
    assert counts.dice[0] == pytest.approx(overlap.GetDiceCoefficient())
    assert counts.jaccard[0] == pytest.approx(overlap.GetJaccardCoefficient())
    # Distances of their contours, through SimpleITK's distance map of each.
    contours = [sitk.LabelContour(i, fullyConnected=False) for i in images]
    surfaces = [sitk.GetArrayFromImage(c) > 0 for c in contours]
    maps = [sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(c, False, False, True)) for c in contours]
    there, back = np.abs(maps[1][surfaces[0]]), np.abs(maps[0][surfaces[1]])
    points = [gathered(v.astype(int), (6, 7, 8)).of(1)[0] for v in (a, b)]
    found = surface_distance(*points, np.diag(SPACING))
    assert found.maximum == pytest.approx(max(there.max(), back.max()), rel=1e-5)
    assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
    assert found.mean == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)


def test_surfaces_are_what_an_erosion_takes_away_and_the_images_border_is_none():
    labels = blobs(3)
    expected = np.zeros(SHAPE, bool)
    for label in np.unique(labels)[1:]:
        expected |= (labels == label) & ~ndimage.binary_erosion(labels == label, border_value=1)
    assert np.array_equal(surface(labels), expected)
    assert not surface(np.ones(SHAPE, int)).any()


def test_the_border_of_what_is_known_is_no_surface():
    known = np.zeros(SHAPE, bool)
    known[:, :, :10] = True
    labels = np.where(known, 5, 0)
    assert surface(labels).any() and not surface(labels, known).any()


@pytest.mark.parametrize("budget", [10**6, 300])
def test_surface_points_of_blocks_are_those_of_the_whole(budget):
    labels = blobs(4)
    whole, blocks = (gathered(labels, b, budget) for b in (SHAPE, (5, 9, 7)))
    for label in (1, 2, 312782616):
        (a, step_a), (b, step_b) = whole.of(label), blocks.of(label)
        assert step_a == step_b and (step_a > 1) == (budget == 300)
        assert np.array_equal(a[np.lexsort(a.T)], b[np.lexsort(b.T)])
        assert len(a) <= budget


def test_thinned_surfaces_keep_distances_to_the_width_of_a_cube():
    a, b = blobs(5), blobs(5, shift=3)
    exact = surface_distance(*(gathered(v, SHAPE).of(1)[0] for v in (a, b)), np.diag(SPACING))
    (p, step), (q, _) = (gathered(v, SHAPE, 600).of(1) for v in (a, b))
    thin = surface_distance(p, q, np.diag(SPACING), step)
    assert thin.step == step > 1
    assert abs(thin.hd95 - exact.hd95) <= step * np.linalg.norm(SPACING)


def test_a_label_without_a_surface_has_no_distance():
    assert np.isnan(surface_distance(np.zeros((0, 3)), np.ones((1, 3)), np.eye(3)).hd95)
