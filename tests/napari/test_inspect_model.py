"""Overlays, the deformation and the worst blocks of a result, without a window."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import bigreg
from bigreg.errors import InputError
from bigreg.geometry import Grid
from bigreg.pipeline.looking.pyramids import Samples

pytest.importorskip("napari", reason="needs bigreg[napari]")
from napari_bigreg.inspect.model import (
    CHECKER,
    CORRELATION,
    DIFFERENCE,
    MAPS,
    SWIPE,
    InspectModel,
    checkerboard,
    difference,
    swipe,
)
from napari_bigreg.shared.pictures import patch_tiles
from napari_bigreg.shared.planes import Plane, plane_grid, sampled


@pytest.fixture(scope="module")
def model(finished):
    return InspectModel(str(finished))


def middle(model, axis: int = 0, pixel: float = 2.0) -> Plane:
    centre = np.mean(model.fixed[0].grid.bounds(), axis=0)
    return Plane(axis, float(centre[axis]), tuple(centre), pixel)


def plain(grid: Grid) -> Samples:
    """The sum of the world's coordinates, which linear interpolation must find again anywhere."""
    values = grid.index_to_world(np.moveaxis(np.indices(grid.shape), 0, -1)).sum(-1).astype(np.float32)
    return Samples(grid, values.dtype, lambda a, b: values[tuple(map(slice, a, b))])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_is_the_slice_at_its_place(model, axis):
    plane = middle(model, axis)
    pair = model.pair(plane, before=False)
    assert pair.grid.shape[axis] == 1 and pair.fixed.shape == pair.moving.shape == pair.grid.shape
    start = np.rint(model.fixed[0].grid.world_to_index(np.array([pair.grid.origin]))[0]).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, pair.grid.shape, strict=True))
    image = model.fixed[0].read((0, 0, 0), model.fixed[0].grid.shape)[box]
    low, high = model.limits["fixed"]
    assert np.allclose(pair.fixed, np.clip((image - low) / (high - low), 0, 1), atol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_sampling_finds_a_linear_image_again(turned):
    matrix = np.diag([4.0, 2.0, 2.5, 1.0])
    matrix[:3, 3] = 5, -7, 11
    if turned:
        matrix[:3, :3] = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]) @ matrix[:3, :3]
    image = plain(Grid((20, 40, 44), matrix))
    centre = np.mean(image.grid.bounds(), axis=0)
    grid = Grid.from_spacing((1, 9, 9), (3.0, 3.0, 3.0), centre - (0, 12, 12))
    truth = grid.index_to_world(np.moveaxis(np.indices(grid.shape), 0, -1)).sum(-1)
    assert np.allclose(sampled([image], grid), truth, atol=1e-3)
    assert not sampled([image], Grid.from_spacing((1, 2, 2), (3.0,) * 3, (-500.0, 0, 0))).any()


def test_a_zoomed_out_view_takes_a_coarser_level(model):
    near, far = (model.pair(middle(model, pixel=p), before=False).grid for p in (0.5, 40.0))
    assert far.voxels < near.voxels


def test_an_oblique_image_is_cut_along_the_world():
    turn = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    grid = Grid((9, 30, 30), np.column_stack([turn @ np.diag([4.0, 2.0, 2.0]), np.zeros(3)]))
    centre = np.mean(grid.bounds(), axis=0)
    cut = plane_grid(grid, Plane(0, centre[0], tuple(centre), 1.0))
    assert cut.is_axis_aligned and cut.shape[0] == 1 and min(cut.shape[1:]) > 30


def test_after_the_deformation_images_are_more_alike_than_before(model):
    plane = middle(model)
    alike = []
    for before in (True, False):
        pair = model.pair(plane, before)
        alike.append(np.corrcoef(pair.fixed.ravel(), pair.moving.ravel())[0, 1])
    assert alike[1] > max(alike[0], 0.9)
    values = [model.overlay(CORRELATION, plane, before=before)[0].mean() for before in (True, False)]
    assert values[1] > values[0]


@pytest.mark.parametrize("mode", [CHECKER, SWIPE, DIFFERENCE, CORRELATION])
def test_an_overlay_is_a_picture_on_its_grid(model, mode):
    picture, grid = model.overlay(mode, middle(model, axis=1), tile_um=20, curtain=0.3)
    assert picture.dtype == np.uint8 and picture.shape == (grid.shape[0], grid.shape[2], 3) and grid.shape[1] == 1
    assert picture.any()


def test_a_checkerboard_takes_turns():
    fixed, moving = np.ones((4, 6)), np.zeros((4, 6))
    board = checkerboard(fixed, moving, (1.0, 2.0), 2.0)[..., 1] > 0
    assert np.array_equal(board[0], [True, False] * 3) and np.array_equal(board[:, 0], [True, True, False, False])


def test_the_curtain_is_where_it_is_put():
    fixed, moving = np.full((2, 10), 0.5), np.zeros((2, 10))
    picture = swipe(fixed, moving, 0.4)[0, :, 0]
    assert (picture[:3] > 0.4).all() and picture[3] == 1 and not picture[4:].any()
    assert not swipe(fixed, moving, 0.0).any()


def test_a_difference_has_the_colour_of_who_is_bright():
    fixed, moving = np.array([[1.0, 0.0, 0.5]]), np.array([[0.0, 1.0, 0.5]])
    assert difference(fixed, moving).tolist() == [[[1, 0, 1], [0, 1, 0], [0, 0, 0]]]


def test_arrows_are_where_the_map_moves_points(model):
    vectors = model.arrows(middle(model), 10)
    inside = model.fixed[0].grid.contains(vectors[:, 0])
    run = bigreg.open_run(model.url)
    moved = run.map_points(vectors[inside, 0])
    affine = run.affine
    truth = (moved - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T - vectors[inside, 0]
    assert np.abs(vectors[inside, 1] - truth).max() < 0.2


def test_grid_lines_are_continuous_and_stay_in_the_plane(model):
    plane = middle(model)
    lines = model.deformed_grid(plane, 8, longer=3.0)
    assert np.allclose(lines[:, 0, 0], plane.at, atol=model.fixed[0].grid.spacing[0]) and not lines[:, 1, 0].any()
    ends = np.round(lines[:, 0] + lines[:, 1], 6)
    starts = {tuple(p) for p in np.round(lines[:, 0], 6)}
    assert np.mean([tuple(p) in starts for p in ends]) > 0.8


def test_every_fold_is_found(run_copy):
    run = bigreg.open_run(str(run_copy))
    assert len(InspectModel(str(run_copy)).folds()) == 0
    field = run.store.array("transforms/fixed_to_moving/0", write=True)
    values = field[...]
    values[2, 8, 9, 10] += 40.0  # um: beyond its neighbours
    field.write((0, 0, 0, 0), values)
    stage = "stages/fixed_to_moving/metrics/folds"
    folds = run.store.array(stage, write=True)
    folds.write((0, 0, 0), np.ones(folds.shape, np.float32))
    found = InspectModel(str(run_copy)).folds()
    centre = run.pyramid("jacobian")[0].grid.index_to_world(np.array([[8, 9, 10]]))[0]
    assert len(found) and (np.abs(found - centre) < 2.1 * np.asarray(run.pyramid("jacobian")[0].grid.spacing)).all()
    assert np.abs(found - centre).max(1).min() < 1e-6


def test_the_worst_blocks_come_first(model):
    for name in model.maps():
        values = [value for _, value in model.worst(name)]
        assert values == sorted(values, reverse=not MAPS[name][3]) and values
    low, high = model.box("confidence", (0, 0, 0))
    assert (low < high).all()


def test_a_figure_is_written(model, tmp_path):
    steps = []
    for name in ("figure.png", "figure.svg"):
        path = model.export_figure(str(tmp_path / name), middle(model), lambda *step: steps.append(step))
        assert (tmp_path / name).stat().st_size > 5000 and path.endswith(name)
    assert steps


def test_a_run_without_fields_compares_the_affine(failed_run):
    model = InspectModel(str(failed_run))
    assert model.after is None and model.field is None
    assert np.array_equal(*(model.pair(middle(model), before).moving for before in (True, False)))
    with pytest.raises(InputError, match="no fields yet"):
        model.arrows(middle(model), 8)


def test_tiles_of_a_block_lie_side_by_side(finished):
    patches = bigreg.open_run(str(finished)).patches("levels/0", (0, 1, 1))
    picture = patch_tiles(patches, patches.grid.shape[0] // 2, {}, side=60, gap=4)
    assert picture.dtype == np.uint8 and picture.shape[1] == 4 * ((picture.shape[1] - 12) // 4) + 12
    assert ndimage.sum(picture) > 0
