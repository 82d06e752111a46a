"""Counting and finding in labels: against numpy on the whole image."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg import open_volume
from bigreg.atlases import Structures, local_atlas, regions
from bigreg.atlases.borders import border_voxels, write_borders
from bigreg.atlases.regions import CellCounter, Counts, Watched, cell_rows, count_voxels, from_csv, region_rows, to_csv
from bigreg.errors import InputError
from bigreg.geometry import Grid
from bigreg.points.files import map_points_file
from bigreg.quality.outlines import outline_segments
from bigreg.transforms.maps import Affine, Frame, Map
from bigreg.volumes import lookup as looking
from bigreg.volumes.lookup import lookup

SPACING = (20.0, 12.0, 10.0)
TREE = Structures([(1, "r", "root", None), (5, "a", "first", 1), (7, "b", "second", 1), (400000001, "c", "third", 7)])
SHAPE = (13, 21, 18)


@pytest.fixture
def labels():
    rng = np.random.default_rng(4)
    coarse = rng.choice(np.array([0, 5, 7, 400000001], np.uint32), (5, 7, 6))
    return coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]


def made(labels, orientation="asr", **more):
    return local_atlas(
        (labels.astype("f4"), SPACING), (labels, SPACING), TREE, orientation=orientation, name="phantom", **more
    )


@pytest.mark.parametrize("box", [4, 128])
def test_lookup_is_the_voxel_that_a_point_lies_in(labels, monkeypatch, box):
    monkeypatch.setattr(looking, "BOX", box)
    image = open_volume(labels, spacing=SPACING, origin=(100, -50, 7))
    index = np.random.default_rng(0).uniform(-1.5, np.add(SHAPE, 0.5), (500, 3))
    found = lookup(image, image.grid().index_to_world(index))
    near = np.rint(index).astype(int)
    inside = ((near >= 0) & (near < SHAPE)).all(1)
    assert np.array_equal(found[inside], labels[tuple(near[inside].T)])
    assert not found[~inside].any() and not lookup(image, np.full((2, 3), np.nan)).any()


@pytest.mark.parametrize("box", [5, 128])
def test_counts_by_blocks_are_those_of_the_whole(labels, monkeypatch, box):
    monkeypatch.setattr(regions, "BOX", box)
    atlas = made(labels)
    counts, missing = count_voxels(atlas.annotation, Map(source=Frame(atlas.annotation.grid())), atlas)
    assert missing is None
    right = np.zeros(SHAPE, bool)
    right[:, :, : SHAPE[2] // 2] = True  # asr: x starts on the right
    for label in (5, 7, 400000001):
        assert counts.of[label].tolist() == [((labels == label) & ~right).sum(), ((labels == label) & right).sum()]


@pytest.mark.parametrize(("orientation", "first"), [("asr", "right"), ("asl", "left")])
def test_the_letter_of_the_axis_says_which_half_is_left(labels, orientation, first):
    atlas = made(labels, orientation)
    low = np.array([[0.0, 0.0, 10.0], [0.0, 0.0, 160.0]])
    assert atlas.sides_of(low).tolist() == ([2, 1] if first == "right" else [1, 2])


def test_a_hemisphere_image_overrules_the_middle(labels):
    halves = np.full(SHAPE, 2, np.uint8)
    halves[:5] = 1
    atlas = made(labels, hemispheres=(halves, SPACING))
    assert atlas.sides_of(np.array([[40.0, 0, 0], [140.0, 0, 0]])).tolist() == [1, 2]


def test_a_region_holds_what_is_below_it_and_its_volume_is_that_of_its_voxels(labels):
    counts = Counts()
    counts.add(labels.ravel(), np.where(np.arange(labels.size) % 3, 1, 2))
    rows = {r["acronym"]: r for r in region_rows(TREE, counts, float(np.prod(SPACING)))}
    third, second = (labels == 400000001).sum(), (labels == 7).sum()
    assert rows["b"]["voxels"] == third + second and rows["b"]["own_voxels"] == second
    assert rows["r"]["voxels"] == (labels > 0).sum() and rows["r"]["own_voxels"] == 0
    assert rows["r"]["volume_mm3"] == pytest.approx((labels > 0).sum() * np.prod(SPACING) / 1e9)
    assert rows["c"]["volume_left_mm3"] + rows["c"]["volume_right_mm3"] == pytest.approx(rows["c"]["volume_mm3"])


def test_a_label_that_no_structure_has_is_told_and_in_no_sum():
    counts = Counts()
    counts.add(np.array([5, 5, 66]), np.array([1, 2, 2]))
    rows = {r["id"]: r for r in region_rows(TREE, counts, 1.0)}
    assert rows[1]["voxels"] == 2 and rows[66]["voxels"] == 1 and rows[66]["name"] == "not among the structures"


def test_cells_are_counted_on_their_way_through_a_map(labels):
    atlas = made(labels)
    grid = atlas.annotation.grid()
    shift = np.eye(4)
    shift[:3, 3] = 500.0
    counter = CellCounter(atlas)
    through = Map((Affine(shift),), Frame(grid.transformed(np.linalg.inv(shift))), Frame(grid))
    index = np.argwhere(labels == 7)
    Watched(through, counter.add).points(grid.index_to_world(index) - 500.0)
    Watched(through, counter.add).points(np.array([[0.0, 0.0, 0.0]]))  # far outside
    assert counter.cells == len(index) + 1 and counter.outside == 1 and counter.unlabelled == 0
    voxels = Counts()
    voxels.add(labels.ravel(), np.ones(labels.size, int))
    rows = {r["acronym"]: r for r in cell_rows(TREE, counter, voxels, 1e9)}
    assert rows["b"]["cells"] == rows["b"]["own_cells"] == rows["r"]["cells"] == len(index)
    assert rows["b"]["density_per_mm3"] == pytest.approx(len(index) / np.isin(labels, [7, 400000001]).sum())
    assert rows["b"]["density_right_per_mm3"] == "" and rows["a"]["cells"] == 0


def test_the_nodes_of_a_neuron_are_counted_as_those_of_a_table(labels, tmp_path):
    atlas = made(labels)
    grid = atlas.annotation.grid()
    counter = CellCounter(atlas)
    through = Watched(Map(source=Frame(grid), target=Frame(grid)), counter.add)
    places = grid.index_to_world(np.argwhere(labels == 7)[:5])
    lines = [f"{i} 3 {x} {y} {z} 1.0 {i - 1 or -1}" for i, (z, y, x) in enumerate(places, start=1)]
    (tmp_path / "in.swc").write_text("\n".join(lines) + "\n")
    map_points_file(tmp_path / "in.swc", tmp_path / "out.swc", through)
    assert counter.cells == 5 and counter.outside == 0 and set(counter.counts.of) == {7}


def test_a_table_reads_back_as_it_was_written(labels):
    counter = CellCounter(made(labels))
    counter.counts.add(np.array([5, 5, 7]), np.array([1, 2, 2]))
    rows = cell_rows(TREE, counter, counter.counts, 1000.0)
    assert from_csv(to_csv(rows).decode()) == rows and rows[0]["cells_p5"] == rows[0]["cells_p95"] == ""
    counter.sampled = [Counts(), Counts()]
    counter.sampled[0].add(np.array([5, 7]), np.array([1, 2]))
    rows = cell_rows(TREE, counter, counter.counts, 1000.0)
    assert from_csv(to_csv(rows).decode()) == rows and (rows[0]["cells_p5"], rows[0]["cells_p95"]) == (0, 3)


def test_borders_are_where_the_next_voxel_has_another_label():
    labels = np.zeros((6, 6, 6), int)
    labels[2:4, 2:4, 2:4] = 3
    found = border_voxels(labels)
    brute = np.zeros_like(found)
    for place in np.ndindex(6, 6, 6):
        for axis in range(3):
            after = tuple(p + (a == axis) for a, p in enumerate(place))
            brute[place] |= after[axis] < 6 and labels[place] != labels[after]
    assert np.array_equal(found, brute)


def test_borders_by_shards_are_those_of_the_whole_on_every_level(labels, tmp_path):
    from bigreg.volumes import convert

    image = convert(labels.repeat(6, 0).repeat(4, 1), tmp_path / "l.ome.zarr", spacing=SPACING, labels=True)
    write_borders(image, str(tmp_path / "b.ome.zarr"), chunk=16, shard=32)
    borders = open_volume(tmp_path / "b.ome.zarr")
    assert len(borders.levels) == len(image.levels) > 1
    for k, level in enumerate(borders.levels):
        whole = (0, 0, 0), level.grid.shape
        assert np.array_equal(borders.read(*whole, k), border_voxels(image.read(*whole, k)))


def test_lines_are_drawn_between_pixels_that_differ():
    plane = np.array([[1, 1], [1, 2]])
    assert {tuple(map(tuple, line)) for line in outline_segments(plane)} == {
        ((0.5, 0.5), (1.5, 0.5)), ((0.5, 0.5), (0.5, 1.5)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orientation": None}, "has no orientation"),
        ({"annotation": (np.zeros((4, 4, 4), np.uint8), SPACING)}, "must lie in one world"),
        ({"annotation": (np.zeros(SHAPE, "f4"), SPACING)}, "labels are whole numbers"),
    ],
)
def test_an_atlas_that_does_not_fit_together_is_refused(labels, change, message):
    given = {"annotation": (labels, SPACING), "orientation": "asr"} | change
    with pytest.raises(InputError, match=message):
        local_atlas((labels.astype("f4"), SPACING), given["annotation"], TREE, orientation=given["orientation"])


def test_the_annotation_may_be_finer_than_the_template():
    coarse = np.zeros((10, 10, 10), "f4")
    fine = Grid.from_spacing((10, 10, 10), SPACING).resampled(np.divide(SPACING, 2))
    annotation = open_volume(
        np.zeros(fine.shape, np.uint8), spacing=fine.spacing, origin=fine.origin, orientation="asr"
    )
    assert local_atlas((coarse, SPACING), annotation, TREE, orientation="asr").annotation.shape == (20, 20, 20)


def test_what_has_no_counterpart_is_counted_apart_and_a_part_of_the_volume(labels):
    atlas = made(labels)
    grid = atlas.annotation.grid()

    def unmatched(places):
        return np.where(grid.world_to_index(places)[:, 0] < 4.5, 1.0, np.nan)  # the first five planes

    through = Map(source=Frame(grid))
    counts, missing = count_voxels(atlas.annotation, through, atlas, unmatched=unmatched)
    rows = {r["acronym"]: r for r in region_rows(TREE, counts, float(np.prod(SPACING)), missing)}
    gone = (labels[:5] > 0).sum() * np.prod(SPACING) / 1e9
    assert rows["r"]["missing_mm3"] == pytest.approx(gone) and 0 < gone < rows["r"]["volume_mm3"]
    assert from_csv(to_csv(list(rows.values())).decode())[0]["missing_mm3"] == pytest.approx(gone, rel=1e-5)
    assert {r["missing_mm3"] for r in region_rows(TREE, counts, 1.0)} == {""}
