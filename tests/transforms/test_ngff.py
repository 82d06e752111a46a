"""Displacement fields and scenes on disk: what is written is what is read, in place and in micrometres."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from bigreg import storage
from bigreg.errors import InputError, OutputError
from bigreg.geometry import Grid
from bigreg.transforms import ngff

FIXED = Grid.from_spacing((21, 33, 40), (5.0, 2.0, 2.5), (10.0, -4.0, 3.0))
MOVING = Grid.from_spacing((23, 38, 44), (5.5, 2.2, 2.6), (0.0, -9.0, -4.0))
AFFINE = np.array([[1.02, 0.03, -0.01, 3.0], [-0.02, 0.97, 0.02, -5.0], [0.01, 0.0, 1.01, 4.0], [0.0, 0.0, 0.0, 1.0]])
places = itertools.count()


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://ngff-{next(places)}"


def make_field(url: str, grids: list[Grid], seed: int = 0, **options: object) -> list[np.ndarray]:
    """A field of random displacements; returns what was written, a level each."""
    options = {"input_name": "fixed", "output_name": "moving", "chunks": (8, 8, 8), **options}
    ngff.create_field(url, grids, **options)
    random = np.random.default_rng(seed)
    levels = [random.normal(size=(3, *grid.shape)).astype(np.float32) for grid in grids]
    for level, values in enumerate(levels):
        storage.open_array(ngff.level_url(url, level), write=True).write((0, 0, 0, 0), values)
    return levels


def change(url: str, key: str, edit) -> None:
    """Edit the OME-Zarr metadata at `url` in place."""
    attributes = storage.read_attributes(url)
    edit(attributes["ome"][key])
    storage.write_attributes(url, attributes)


@pytest.mark.parametrize("shards", [None, (16, 16, 8)])
def test_a_field_is_read_back_as_written(url, shards):
    grids = [FIXED, FIXED.downsampled((2, 3, 2))]
    levels = make_field(url, grids, shards=shards)
    field = ngff.FieldReader(url)
    assert field.grids == grids
    for level, values in enumerate(levels):
        assert np.array_equal(field.read(level, (0, 0, 0), grids[level].shape), values)
    part = field.read(0, (3, 0, 17), (7, 32, 40))
    assert part.dtype == np.float32
    assert np.array_equal(part, levels[0][:, 3:7, 0:32, 17:40])


number = st.floats(-1e4, 1e4)
step = st.floats(1e-2, 1e3)


@given(spacing=st.tuples(step, step, step), origin=st.tuples(number, number, number))
def test_a_grid_survives_to_the_last_bit(spacing, origin):
    grid = Grid.from_spacing((3, 1, 5), spacing, origin)
    url = f"memory://ngff-{next(places)}"
    ngff.create_field(url, [grid], input_name="fixed", output_name="moving", chunks=(8, 8, 8))
    assert ngff.FieldReader(url).grids == [grid]


def test_a_coarser_field_says_the_same_as_a_fine_one(url):
    """A linear map sampled on three grids: half a voxel of error in any of them would show."""
    grids = [FIXED, FIXED.downsampled((2, 2, 3)), ngff.field_grid(FIXED, (13.0, 9.0, 11.0))]
    ngff.create_field(url, grids, input_name="fixed", output_name="moving", chunks=(8, 8, 8))
    slope = np.array([[0.1, 0.02, 0.0], [0.0, -0.05, 0.03], [0.04, 0.0, 0.07]])
    for level, grid in enumerate(grids):
        world = grid.index_to_world(np.indices(grid.shape).reshape(3, -1).T)
        values = (world @ slope.T).T.reshape(3, *grid.shape)
        storage.open_array(ngff.level_url(url, level), write=True).write((0, 0, 0, 0), values)
    field = ngff.FieldReader(url)
    points = np.random.default_rng(1).uniform(*(c[:, None] for c in FIXED.bounds()), size=(3, 200)).T
    for level, grid in enumerate(field.grids):
        index = grid.world_to_index(points)
        inside = np.all((index >= 0) & (index <= np.array(grid.shape) - 1), axis=1)
        assert inside.sum() > 50
        values = field.read(level, (0, 0, 0), grid.shape)
        found = np.stack([map_coordinates(c, index[inside].T, order=1) for c in values]).T
        assert np.allclose(found, points[inside] @ slope.T, atol=1e-4)


def test_the_field_grid_of_an_aligned_image_shares_its_faces():
    assert np.allclose(ngff.field_grid(FIXED, FIXED.spacing).matrix, FIXED.matrix)
    grid = ngff.field_grid(FIXED, (12.0, 7.0, 7.0))
    assert np.allclose(grid.bounds(faces=True), FIXED.bounds(faces=True))
    assert all(s <= limit for s, limit in zip(grid.spacing, (12.0, 7.0, 7.0), strict=True))


def test_the_field_grid_of_a_turned_image_holds_all_of_it():
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
    image = FIXED.transformed(turn)
    grid = ngff.field_grid(image, (10.0, 4.0, 4.0))
    assert grid.is_axis_aligned
    assert grid.contains(image.corners(faces=True)).all()


def test_the_field_grid_of_an_image_with_swapped_axes_is_no_larger():
    swap = np.eye(4)[[2, 0, 1, 3]] * [[-1.0], [1.0], [1.0], [1.0]]
    assert ngff.field_grid(FIXED.transformed(swap), (2.5, 5.0, 2.0)).voxels == FIXED.voxels


def test_a_turned_grid_is_refused(url):
    turned = Grid((4, 4, 4), np.eye(4)[[0, 2, 1, 3]])
    with pytest.raises(ValueError, match="field_grid"):
        ngff.create_field(url, [turned], input_name="fixed", output_name="moving", chunks=(8, 8, 8))


def test_creating_again_keeps_the_values_or_is_refused(url):
    (values,) = make_field(url, [FIXED])
    options = {"input_name": "fixed", "output_name": "moving", "chunks": (8, 8, 8)}
    with pytest.raises(OutputError, match="exists already"):
        ngff.create_field(url, [FIXED], **options)
    ngff.create_field(url, [FIXED], **options, exist_ok=True)
    assert np.array_equal(ngff.FieldReader(url).read(0, (0, 0, 0), FIXED.shape), values)


def make_scene(url: str) -> None:
    for name, ends, frame in (
        ("fixed_to_moving", ("fixed", "moving"), FIXED),
        ("moving_to_fixed", ("moving", "fixed"), MOVING),
    ):
        grid = ngff.field_grid(frame, (9.0, 7.0, 7.0))
        make_field(storage.join(url, name), [grid], input_name=ends[0], output_name=ends[1])
    ngff.write_scene(url, fixed=FIXED, moving=MOVING, affine=AFFINE)


def test_a_scene_is_read_back_as_written(url):
    make_scene(url)
    scene = ngff.read_scene(url)
    assert (scene.fixed, scene.moving) == (FIXED, MOVING)
    assert np.array_equal(scene.affine, AFFINE)
    assert ngff.FieldReader(scene.fixed_to_moving).grids == [ngff.field_grid(FIXED, (9.0, 7.0, 7.0))]
    assert ngff.FieldReader(scene.moving_to_fixed).grids == [ngff.field_grid(MOVING, (9.0, 7.0, 7.0))]


def test_a_scene_of_fields_alone_has_no_affine_and_their_frames(url):
    make_scene(url)

    def plain(scene):
        (bijection,) = scene["coordinateTransformations"]
        for way in ("forward", "inverse"):
            bijection[way] = bijection[way]["transformations"][0]

    attributes = storage.read_attributes(url)
    plain(attributes["ome"]["scene"])
    storage.write_attributes(url, {"ome": attributes["ome"]})
    scene = ngff.read_scene(url)
    assert np.array_equal(scene.affine, np.eye(4))
    assert (scene.fixed, scene.moving) == tuple(ngff.field_grid(g, (9.0, 7.0, 7.0)) for g in (FIXED, MOVING))


def wrong_inverse(scene):
    scene["coordinateTransformations"][0]["inverse"]["transformations"][1]["affine"][0][3] += 1.0


def other_order(scene):
    scene["coordinateTransformations"][0]["forward"]["transformations"].reverse()


def other_unit(scene):
    scene["coordinateSystems"][1]["axes"][0]["unit"] = "millimeter"


def no_bijection(scene):
    scene["coordinateTransformations"][0]["type"] = "identity"


def no_path(scene):
    del scene["coordinateTransformations"][0]["forward"]["transformations"][0]["path"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (wrong_inverse, "not each other's inverse"),
        (other_order, r"\['affine', 'displacements'\]"),
        (other_unit, "micrometer"),
        (no_bijection, "of type identity"),
        (no_path, "incomplete or malformed"),
    ],
)
def test_a_scene_that_says_something_else_is_refused(tmp_path, edit, message):
    make_scene(str(tmp_path))
    change(str(tmp_path), "scene", edit)
    with pytest.raises(InputError, match=message):
        ngff.read_scene(str(tmp_path))


def test_a_field_in_millimetres_with_axes_the_other_way_round_means_the_same(url):
    """The vector axis is found by its type, the components follow the axes, lengths become micrometres."""
    random = np.random.default_rng(3)
    values = random.normal(size=(4, 5, 7, 3)).astype(np.float32)  # x, y, z, component (x, y, z)
    storage.create_array(storage.join(url, "s0"), shape=values.shape, dtype="float32", chunks=(4, 5, 7, 3)).write(
        (0, 0, 0, 0), values
    )
    axes = [{"name": n, "type": "space", "unit": "millimeter"} for n in "xyz"] + [{"name": "d", "type": "displacement"}]
    level = {
        "path": "s0",
        "coordinateTransformations": [
            {"type": "scale", "scale": [0.002, 0.003, 0.01, 1.0], "input": {"path": "s0"}, "output": {"name": "mm"}}
        ],
    }
    multiscale = {"coordinateSystems": [{"name": "mm", "axes": axes}], "datasets": [level]}
    storage.create_group(url, {"ome": {"version": "0.6rc0", "multiscales": [multiscale]}})
    field = ngff.FieldReader(url)
    assert np.allclose(field.grids[0].matrix, Grid.from_spacing((7, 5, 4), (10.0, 3.0, 2.0)).matrix)
    found = field.read(0, (1, 0, 2), (6, 5, 4))
    assert np.allclose(found, 1e3 * values.transpose(3, 2, 1, 0)[::-1, 1:6, :, 2:4], rtol=1e-6)


def no_unit(multiscales):
    del multiscales[0]["coordinateSystems"][0]["axes"][2]["unit"]


def no_vector(multiscales):
    multiscales[0]["coordinateSystems"][0]["axes"][0]["type"] = "channel"


def turned(multiscales):
    multiscales[0]["datasets"][0]["coordinateTransformations"][0]["transformations"][0]["type"] = "rotation"


@pytest.mark.parametrize(
    ("edit", "message"),
    [(no_unit, "axis y has unit None"), (no_vector, "no 3-D displacement field"), (turned, "not by rotation")],
)
def test_a_field_that_cannot_be_placed_is_refused(tmp_path, edit, message):
    make_field(str(tmp_path / "field"), [FIXED])
    change(str(tmp_path / "field"), "multiscales", edit)
    with pytest.raises(InputError, match=message):
        ngff.FieldReader(str(tmp_path / "field"))


def test_another_version_and_another_group_are_refused(tmp_path):
    url = str(tmp_path / "field")
    make_field(url, [FIXED])
    with pytest.raises(InputError, match="no OME-Zarr scene"):
        ngff.read_scene(url)
    attributes = storage.read_attributes(url)
    attributes["ome"]["version"] = "0.5"
    storage.write_attributes(url, attributes)
    with pytest.raises(InputError, match=r"OME-Zarr 0\.5"):
        ngff.FieldReader(url)
