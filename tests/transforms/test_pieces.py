"""Maps in pieces: which map a point takes, there and back, however it is asked and wherever it lies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bigreg.geometry import Grid
from bigreg.transforms.affine import about
from bigreg.transforms.maps import Affine, Frame, Map
from bigreg.transforms.pieces import BOX, CONTESTED, DEEP, NONE, Claimed, Labels, Split
from bigreg.transforms.positions import Positions

SHAPE, SPACING = (6, 300, 170), (4.0, 2.0, 2.5)
TURN = about(
    np.array([[1.0, 0.1, 0.0], [-0.1, 1.0, 0.05], [0.0, -0.05, 1.0]]), np.array([10.0, 300.0, 100.0]),
    np.array([1e4, 0, 7]),
)  # fmt: skip


def noise_labels(seed=0):
    """Blobs of labels 0 to 3."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 6)
    return np.digitize(smooth, np.quantile(smooth, [0.3, 0.5, 0.8])).astype(np.uint8)


def labels_of(data, grid=None, reads=None):
    def read(start, stop):
        if reads is not None:
            reads.append(np.subtract(stop, start))
        return data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]

    return Labels(read, grid or Grid.from_spacing(data.shape, SPACING))


def some_points(grid, count=4000, seed=1, beyond=20.0):
    low, high = grid.bounds(faces=True)
    return np.random.default_rng(seed).uniform(low - beyond, high + beyond, (count, 3))


@pytest.mark.parametrize("turn", [np.eye(4), TURN], ids=["straight", "oblique"])
def test_the_label_of_a_point_is_that_of_the_voxel_around_it(turn):
    data, grid = noise_labels(), Grid.from_spacing(SHAPE, SPACING).transformed(turn)
    points, reads = some_points(grid), []
    points[7] = np.nan
    found = labels_of(data, grid, reads).at(points)
    index = np.rint(grid.world_to_index(points))
    inside = ((index >= 0) & (index < SHAPE)).all(1)
    expected = np.where(inside, data[tuple(np.where(inside[:, None], index, 0).astype(int).T)], 0)
    assert np.array_equal(found, expected) and len(set(found)) == 4
    assert np.max(reads) <= BOX + 1


def test_a_depth_is_the_distance_to_the_border_whatever_is_asked_with_it():
    data = (noise_labels() > 0).astype(np.uint8)
    reads = []
    labels = labels_of(data, reads=reads)
    points = some_points(labels.grid, 300, beyond=0)
    points = points[labels.at(points) == 1]
    far = np.minimum(ndimage.distance_transform_edt(data, sampling=SPACING), DEEP * 2.0)
    expected = ndimage.map_coordinates(far, labels.grid.world_to_index(points).T, order=1, mode="nearest")
    together = labels.depth(points, 1)
    np.testing.assert_allclose(together, expected, atol=1e-9)
    assert [labels.depth(point[None], 1)[0] for point in points] == together.tolist()
    assert np.max(reads) <= BOX + 2 * (DEEP + 3)


def split(data, *matrices, kind=Split, labels=(1, 2, 3)):
    """Affines as the maps of labels 1, 2, ...; for the way back their inverses."""
    grid = Grid.from_spacing(data.shape, SPACING)
    maps = tuple(Map((Affine(m if kind is Split else np.linalg.inv(m)),)) for m in matrices)
    return Map((kind(maps, labels[: len(maps)], labels_of(data, grid)),), Frame(grid if kind is Split else None))


def shifted(*by):
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return matrix


def test_each_point_goes_through_the_map_of_its_label_and_the_gap_is_nan():
    data = noise_labels()
    matrices = [shifted(1, 2, 3), TURN, np.diag([1.0, 2.0, 0.5, 1.0])]
    mapped, points = split(data, *matrices), some_points(Grid.from_spacing(SHAPE, SPACING))
    found, label = mapped.points(points), labels_of(data).at(points)
    for number, matrix in enumerate(matrices, start=1):
        own = label == number
        np.testing.assert_allclose(found[own], points[own] @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-9)
        expected = np.linalg.det(matrix[:3, :3])
        np.testing.assert_allclose(mapped.determinant(points)[own], expected, rtol=1e-6)
    assert np.isnan(found[label == 0]).all() and np.isnan(mapped.determinant(points)[label == 0]).all()


def test_a_block_of_positions_goes_where_its_points_go():
    mapped, grid = split(noise_labels(), shifted(1, 2, 3), TURN), Grid.from_spacing(SHAPE, SPACING)
    places = Positions.of_grid(grid.cropped((0, 100, 30), (6, 160, 90)))
    expected, out = mapped.points(places.points()), np.full((6 * 60 * 60, 3), np.nan)
    for rows, through, some in mapped.parted(places):
        out[rows] = through.follow(some)[0].points()
    np.testing.assert_allclose(out, expected, atol=1e-2)
    assert np.isnan(out).any() and np.isfinite(out).any()


def halves(gap=0):
    """Label 1 up to the middle of y, label 2 from there on, and label 0 between."""
    y = np.arange(SHAPE[1])
    line = np.where(y < 150 - gap, 1, np.where(y >= 150 + gap, 2, 0)).astype(np.uint8)
    return np.broadcast_to(line[None, :, None], SHAPE).copy()


def test_what_goes_there_comes_back_where_pieces_part():
    """Label 2 is moved away in the other frame: nobody claims twice."""
    data, matrices = halves(gap=3), (shifted(0, 0, 0), shifted(0, 30, 0))
    there, back = split(data, *matrices), split(data, *matrices, kind=Claimed)
    points = some_points(Grid.from_spacing(SHAPE, SPACING))
    round_trip = there.then(back).points(points)
    known = labels_of(data).at(points) > 0
    np.testing.assert_allclose(round_trip[known], points[known], atol=1e-9)
    assert np.isnan(round_trip[~known]).all() and (~known).sum() > 50
    assert np.isnan(back.points(np.array([[8.0, 305.0, 100.0]]))).all()  # between the two


def test_a_point_that_two_pieces_claim_belongs_to_the_one_that_it_is_deeper_in():
    """Both pieces are moved 10 um over the other's border: around y = 299 um, 20 um are claimed twice."""
    data, matrices = halves(), (shifted(0, 10, 0), shifted(0, -10, 0))
    back = split(data, *matrices, kind=Claimed)
    (step,) = back.steps
    y = np.array([280.0, 292.0, 298.0, 300.0, 306.0, 320.0])
    points = np.stack([np.full_like(y, 8), y, np.full_like(y, 200)], axis=1)
    assert step.chosen(points).tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(back.points(points)[:, 1], y + np.where(np.arange(6) < 3, -10, 10))
    exactly = step.chosen(np.array([[8.0, 299.0, 200.0]]))
    assert exactly.tolist() == [0], "neither is deeper: the first"


def test_two_claims_far_from_both_borders_contradict_each_other_and_the_point_is_in_no_piece():
    data = halves()
    back = split(data, shifted(0, 100, 0), shifted(0, -100, 0), kind=Claimed)
    (step,) = back.steps
    points = np.array([[8.0, 299.0, 200.0], [8.0, 205.0, 200.0]])
    assert step.chosen(points).tolist() == [CONTESTED, 0]
    assert np.isnan(back.points(points)[0]).all() and np.isfinite(back.points(points)[1]).all()


def test_a_crack_between_pieces_that_touch_is_closed_and_a_gap_is_not():
    """Pieces part by 1.6 um where a voxel is 2 um; where they part by 20 um, what lies between is in none."""
    points = np.array([[8.0, y, 200.0] for y in (290.0, 298.5, 299.0, 299.6, 310.0)])
    (crack,) = split(halves(), shifted(0, -0.8, 0), shifted(0, 0.8, 0), kind=Claimed).steps
    assert crack.chosen(points).tolist() == [0, 0, 0, 1, 1]
    (gap,) = split(halves(), shifted(0, -10, 0), shifted(0, 10, 0), kind=Claimed).steps
    assert gap.chosen(points).tolist() == [NONE] * 3 + [NONE, 1]


def test_maps_before_and_after_a_choice_are_followed_too():
    data, before, after = halves(), shifted(0, 50, 0), TURN
    whole = Map((Affine(before),)).then(split(data, shifted(1, 0, 0), shifted(0, 0, 5))).then(Map((Affine(after),)))
    points = np.array([[8.0, 240.0, 200.0], [8.0, 260.0, 200.0]])
    expected = points + np.array([[1.0, 50.0, 0.0], [0.0, 50.0, 5.0]])
    np.testing.assert_allclose(whole.points(points), expected @ TURN[:3, :3].T + TURN[:3, 3])
    assert whole.matrix is None and whole.fields == ()
