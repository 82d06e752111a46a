"""Runs and files joined to one map, handed to other programs, and taken as a start."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg import chain, open_volume, plan, register
from bigreg.errors import ConfigError, InputError, OutputError
from bigreg.geometry import Grid
from bigreg.pipeline.context.beginning import given_start
from bigreg.pipeline.results.export import export
from bigreg.quality.metrics import target_registration_error
from bigreg.transforms import landmarks
from bigreg.transforms.affine import about, apply_affine
from bigreg.transforms.maps import Affine, Frame, Map
from bigreg.volumes import convert

FAR = about(np.diag([1.0, -1.0, -1.0]), np.zeros(3), np.array([900.0, -3000.0, 2000.0]))


@pytest.fixture(scope="module")
def points(pair):
    index = np.argwhere(pair.mask)
    return index[:: max(1, len(index) // 2000)] * np.asarray(pair.spacing)


def tre(pair, run):
    index = np.argwhere(pair.mask)[::20]
    found = run.map_points(index * np.asarray(pair.spacing))
    return target_registration_error(found, pair.truth[:, *index.T].T.astype(float))


@pytest.fixture(scope="module")
def files(registered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for name in ("map.h5", "map.nii.gz", "map.nrrd", "affine.mat"):
        registered.run.export(str(folder / name))
    registered.run.export(str(folder / "matrix.csv"), format="matrix")
    registered.run.export(str(folder / "pairs.csv"), format="bigwarp", pairs=100)
    return folder


# ---------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("name", ["map.h5", "map.nii.gz", "map.nrrd"])
def test_an_exported_run_is_the_run(registered, files, pair, points, name):
    again = chain(str(files / name), fixed=registered.fixed, moving=registered.moving)
    difference = (again.map_points(points) - registered.run.map_points(points)) / pair.spacing
    assert np.abs(difference).max() < 0.01


def peak_of(image):
    """Where a Gaussian ball is brightest, in voxels: the summit of a parabola through its logarithm."""
    top = np.array(np.unravel_index(image.argmax(), image.shape))
    near = np.stack(np.meshgrid(*[np.arange(-2.0, 3.0)] * 3, indexing="ij")).reshape(3, -1)
    values = np.log(image[tuple(near.astype(int) + top[:, None])])
    z, y, x = near
    terms = np.stack([z * z, y * y, x * x, z * y, z * x, y * x, z, y, x, np.ones_like(z)], axis=1)
    a, b, c, d, e, f, *slope, _ = np.linalg.lstsq(terms, values, rcond=None)[0]
    return top - np.linalg.solve([[2 * a, d, e], [d, 2 * b, f], [e, f, 2 * c]], slope)


@pytest.mark.parametrize("name", ["map.h5", "map.nii.gz", "map.nrrd"])
@pytest.mark.parametrize("direction", ["fixed_to_moving", "moving_to_fixed"])
def test_simpleitk_brings_a_bright_dot_to_where_its_coordinate_goes(registered, pair, name, direction, tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="needs the extra 'test'")
    registered.run.export(str(tmp_path / name), direction=direction)
    if name.endswith("h5"):
        transform = sitk.ReadTransform(str(tmp_path / name))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / name), sitk.sitkVectorFloat64))
    other = "moving_to_fixed" if direction == "fixed_to_moving" else "fixed_to_moving"
    spacing = np.asarray(pair.spacing)
    centre = np.array([20.0, 28.0, 30.0]) * spacing
    # A ball where the coordinate goes to, and a fine grid around where it comes from.
    at = registered.run.map_points(centre[None], direction)[0]
    source = Grid.from_spacing((41, 41, 41), spacing / 6, at - 20.3 * spacing / 6)
    target = Grid.from_spacing((25, 25, 25), spacing / 4, centre - 12 * spacing / 4)
    places = source.index_to_world(np.indices(source.shape).reshape(3, -1).T)
    ball = np.exp(-0.5 * ((places - at) ** 2).sum(1) / 6.0**2).reshape(source.shape).astype(np.float32)
    images = [sitk.GetImageFromArray(v) for v in (ball, np.zeros(target.shape, np.float32))]
    for image, grid in zip(images, (source, target), strict=True):
        image.SetSpacing((np.array(grid.spacing)[::-1] / 1000).tolist())
        image.SetOrigin((np.array(grid.origin)[::-1] / 1000).tolist())
    theirs = sitk.GetArrayFromImage(sitk.Resample(*images, transform, sitk.sitkLinear, 0.0))
    image = open_volume(ball, spacing=source.spacing, origin=source.origin)
    ours = registered.run.warp(image, out=str(tmp_path / "o.ome.zarr"), direction=direction, onto=target)
    values = ours.read((0, 0, 0), ours.shape)
    both = (theirs > 0) & (values > 0)  # whether a point on the very face is inside is a matter of rounding
    assert both.mean() > 0.5 and np.abs(theirs - values)[both].max() < 2e-3
    back = registered.run.map_points(at[None], other)[0]
    assert np.abs((target.index_to_world(peak_of(theirs)) - back) / spacing).max() < 0.05
    assert np.abs((back - centre) / spacing).max() < 0.05


@pytest.mark.parametrize("name", ["run", "scene", "map.h5", "map.nii.gz", "map.nrrd"])
@pytest.mark.parametrize("direction", ["fixed_to_moving", "moving_to_fixed"])
def test_a_bright_dot_and_its_coordinate_land_together_through_every_export(
    registered, pair, name, direction, tmp_path
):
    ends = {"fixed": registered.fixed, "moving": registered.moving}
    if direction == "moving_to_fixed":
        ends = {"fixed": registered.moving, "moving": registered.fixed}
    if name == "run":
        through, way = registered.run, direction
    elif name == "scene":
        through, way = chain(registered.run.store.path("transforms")), direction
    else:
        registered.run.export(str(tmp_path / name), direction=direction)
        through, way = chain(str(tmp_path / name), **ends), "fixed_to_moving"
    other = "moving_to_fixed" if direction == "fixed_to_moving" else "fixed_to_moving"
    spacing = np.asarray(pair.spacing)
    at = np.array([21.3, 25.7, 33.4]) * spacing
    source = Grid.from_spacing((27, 31, 29), spacing / 4, at - np.array([12.6, 15.2, 14.3]) * spacing / 4)
    places = source.index_to_world(np.indices(source.shape).reshape(3, -1).T)
    ball = np.exp(-0.5 * ((places - at) ** 2).sum(1) / 5.0**2).reshape(source.shape).astype(np.float32)
    image = open_volume(ball, spacing=source.spacing, origin=source.origin)
    lands = registered.run.map_points(at[None], other)[0]
    target = Grid.from_spacing((23, 25, 27), spacing / 4, lands - np.array([11.2, 12.4, 13.7]) * spacing / 4)
    out = through.warp(image, out=str(tmp_path / "dot.ome.zarr"), direction=way, onto=target)
    seen = target.index_to_world(peak_of(out.read((0, 0, 0), out.shape)))
    assert np.abs((seen - lands) / spacing).max() < 0.05


def test_landmarks_of_a_run_lie_on_its_map(registered, files):
    fixed, moving = landmarks.read_pairs(files / "pairs.csv")
    assert 50 <= len(fixed) <= 200
    np.testing.assert_allclose(registered.run.map_points(fixed), moving, atol=1e-4)


def test_an_affine_that_was_exported_is_the_runs(registered, files):
    for name in ("affine.mat", "matrix.csv"):
        map_ = chain(str(files / name), fixed=registered.fixed, moving=registered.moving).map()
        np.testing.assert_allclose(map_.matrix, registered.run.affine, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- chains


def test_there_and_back_through_a_chain_is_the_identity(registered, pair, points):
    round_trip = chain(registered.run, registered.run.inverse)
    back = round_trip.map_points(points)
    known = np.isfinite(back).all(1)
    assert known.mean() > 0.9
    assert np.percentile(np.abs((back - points)[known] / pair.spacing), 99) < 0.1
    same = chain(registered.run.url, f"{registered.run.url}:inverse").map_points(points)
    np.testing.assert_array_equal(same, back)


def test_a_chain_is_its_parts_one_after_another_in_both_directions(registered, files, points):
    both = chain(registered.run, str(files / "affine.mat"), moving=registered.moving)
    np.testing.assert_allclose(
        both.map_points(points), apply_affine(registered.run.affine, registered.run.map_points(points)), atol=1e-3
    )
    back = both.map_points(points, "moving_to_fixed")
    straight = registered.run.map_points(apply_affine(np.linalg.inv(registered.run.affine), points), "moving_to_fixed")
    np.testing.assert_allclose(back, straight, atol=1e-3)


def test_an_image_through_a_chain_is_interpolated_once(registered, pair, tmp_path):
    image = (pair.moving, pair.spacing)
    there = chain(registered.run, registered.run.inverse).warp(
        (pair.fixed, pair.spacing), out=str(tmp_path / "once.ome.zarr")
    )
    moved = registered.run.warp(
        (pair.fixed, pair.spacing), out=str(tmp_path / "1.ome.zarr"), direction="moving_to_fixed"
    )
    twice = registered.run.warp(moved, out=str(tmp_path / "2.ome.zarr"))
    core = tuple(slice(8, -8) for _ in range(3))
    truth = pair.fixed[core].astype(float)
    errors = [np.abs(v.read((0, 0, 0), v.shape)[core] - truth).mean() for v in (there, twice)]
    assert errors[0] < 0.5 * errors[1]
    onto = chain(registered.run).warp(
        image, out=str(tmp_path / "3.ome.zarr"), onto=open_volume(there).grid().downsampled((2, 2, 2))
    )
    assert onto.shape == tuple(n // 2 for n in pair.fixed.shape)


@pytest.mark.parametrize("axes", ["lps", "xyz"])
def test_a_file_takes_its_axes_from_the_images_at_its_ends(axes, tmp_path):
    data = np.zeros((8, 9, 10), np.uint8)
    fixed = open_volume(data, spacing=(3, 2, 1), orientation="psl", name="fixed")
    moving = open_volume(data, spacing=(2, 2, 2), origin=(5, 6, 7), orientation="ipl", name="moving")
    map_ = Map(
        (Affine(about(np.eye(3)[[1, 0, 2]] * 1.1, np.zeros(3), np.array([4.0, 5.0, 6.0]))),),
        Frame(fixed.grid(), "psl"),
        Frame(moving.grid(), "ipl"),
    )
    path = str(tmp_path / "a.mat")
    export(map_, path, None, "um", axes, 0)
    options = {"unit": "um", "axes": axes}
    matrix = map_.matrix
    there = chain(path, fixed=fixed, moving=moving, **options).map()
    np.testing.assert_allclose(there.matrix, matrix, atol=1e-9)
    assert there.source.grid == fixed.grid()
    back = chain(f"{path}:inverse", fixed=moving, moving=fixed, **options).map()
    np.testing.assert_allclose(back.matrix, np.linalg.inv(matrix), atol=1e-9)
    # Between the two, its neighbours are what it is said by.
    round_trip = chain(path, f"{path}:inverse", fixed=fixed, moving=fixed, **options).map()
    np.testing.assert_allclose(round_trip.matrix, np.eye(4), atol=1e-9)


def test_a_scene_is_a_map_in_both_directions(registered, points):
    scene = chain(registered.run.store.path("transforms"))
    for direction in ("fixed_to_moving", "moving_to_fixed"):
        np.testing.assert_array_equal(scene.map_points(points, direction), registered.run.map_points(points, direction))


def test_what_a_chain_cannot_do_is_said(registered, files, tmp_path):
    field = chain(str(files / "map.nrrd"), fixed=registered.fixed)
    with pytest.raises(InputError, match="without their inverse"):
        field.map_points(np.zeros((1, 3)), "moving_to_fixed")
    with pytest.raises(InputError, match="voxel grid"):
        chain(str(files / "matrix.csv")).warp(registered.moving, out=str(tmp_path / "w.ome.zarr"))
    with pytest.raises(InputError, match="does not exist"):
        chain(str(tmp_path / "none.h5"))
    with pytest.raises(InputError, match="no OME-Zarr scene"):
        chain(registered.run.store.path("warped"))
    for options in ({"unit": "inch"}, {"axes": "ras"}):
        with pytest.raises(ConfigError, match="unknown"):
            chain(str(files / "matrix.csv"), **options)
    with pytest.raises(OutputError, match="exists already"):
        registered.run.export(str(files / "map.h5"))


# ---------------------------------------------------------------------------------------------------- starts


@pytest.fixture(scope="module")
def far(pair, tmp_path_factory):
    """The moving image carried by a half turn and a long way off: no search would find that."""
    folder = tmp_path_factory.mktemp("far")
    image = convert(pair.moving[:, ::-1, ::-1], folder / "moving.ome.zarr", spacing=pair.spacing)
    index = np.asarray(pair.moving.shape) - 1
    last = index * np.asarray(pair.spacing)
    turn = about(np.diag([1.0, -1.0, -1.0]), np.zeros(3), np.array([0.0, last[1], last[2]]))
    return open_volume(image, origin=(900.0, -3000.0, 2000.0)), about(
        np.eye(3), np.zeros(3), (900.0, -3000.0, 2000.0)
    ) @ turn


@pytest.mark.parametrize("kind", ["csv", "mat", "mat:inverse", "landmarks"])
def test_a_start_is_read_from_any_file_that_says_an_affine(kind, pair, far, small_config, tmp_path):
    image, matrix = far
    fixed = open_volume(pair.fixed, spacing=pair.spacing)
    np.savetxt(tmp_path / "start.csv", matrix, delimiter=",")
    path = str(tmp_path / "start.csv")
    if kind.startswith("mat"):
        direction = "moving_to_fixed" if kind.endswith("inverse") else "fixed_to_moving"
        path = str(tmp_path / "start.mat")
        chain(str(tmp_path / "start.csv"), fixed=fixed, moving=image).export(path, direction=direction)
        path += ":inverse" if kind.endswith("inverse") else ""
    elif kind == "landmarks":
        path = str(tmp_path / "pairs.csv")
        corners = np.array([[0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100], [50, 90, 20]], float)
        landmarks.write_bigwarp(path, corners, apply_affine(matrix, corners))
    found = given_start(small_config(f"affine.start={path}"), {"fixed": fixed, "moving": image})
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-5)
    np.testing.assert_allclose(found.frames(fixed.grid(), image.grid()).affine, matrix, atol=1e-5)


def test_a_given_start_takes_the_place_of_the_search(pair, far, thread_client, small_config, tmp_path):
    image, matrix = far
    nudged = about(np.eye(3), np.zeros(3), (3.0, -4.0, 2.0)) @ matrix
    np.savetxt(tmp_path / "start.csv", nudged, delimiter=",")
    run = register(
        (pair.fixed, pair.spacing), image, out=str(tmp_path / "r.zarr"), client=thread_client,
        config=small_config(f"affine.start={tmp_path / 'start.csv'}", "ladder.finest=2"),
    )  # fmt: skip
    index = np.argwhere(pair.mask)[::20]
    truth = apply_affine(matrix, pair.truth[:, *index.T].T.astype(float))
    error = target_registration_error(run.map_points(index * np.asarray(pair.spacing)), truth)
    assert error.mean < 0.8 * min(pair.spacing)
    assert np.abs(run.affine[:3, 3] - nudged[:3, 3]).max() > 0.5  # it was refined


def test_a_start_that_is_not_to_be_refined_is_kept(pair, far, small_config, thread_client, tmp_path):
    image, matrix = far
    np.savetxt(tmp_path / "start.csv", matrix, delimiter=",")
    config = small_config(f"affine.start={tmp_path / 'start.csv'}", "affine.kind=none", "ladder.finest=2")
    out = str(tmp_path / "r.zarr")
    run = register((pair.fixed, pair.spacing), image, out=out, config=config, client=thread_client)
    np.testing.assert_allclose(run.affine, matrix, atol=1e-9)
    np.savetxt(tmp_path / "start.csv", about(np.eye(3), np.zeros(3), (9.0, 0, 0)) @ matrix, delimiter=",")
    with pytest.raises(OutputError, match="another start"):
        register((pair.fixed, pair.spacing), image, out=out, config=config, client=thread_client)


@pytest.fixture(scope="module")
def rough(registered, thread_client, small_config, tmp_path_factory):
    """A run that ends on its coarsest level."""
    return register(
        registered.fixed, registered.moving, out=str(tmp_path_factory.mktemp("rough") / "run.zarr"),
        config=small_config("ladder.finest=2"), client=thread_client,
    )  # fmt: skip


def test_a_run_that_finds_nothing_new_keeps_the_map_it_starts_from(
    rough, registered, pair, thread_client, small_config, tmp_path
):
    stiff = "engine_options.optimise.regularisation=1000000.0", "ladder.iterations=[1]"
    config = small_config(f"affine.start={rough.url}", "ladder.coarsest=null", *stiff)
    out = str(tmp_path / "kept.zarr")
    kept = register(registered.fixed, registered.moving, out=out, config=config, client=thread_client)
    np.testing.assert_array_equal(kept.affine, rough.affine)
    places = np.argwhere(pair.mask)[::50] * np.asarray(pair.spacing)
    for direction in ("fixed_to_moving", "moving_to_fixed"):
        difference = (kept.map_points(places, direction) - rough.map_points(places, direction)) / pair.spacing
        assert np.nanmax(np.abs(difference)) < 0.05
    assert np.abs(rough.map_points(places) - apply_affine(rough.affine, places)).max() > 2.0
    done = {s.name: (s.blocks, s.done) for s in kept.status().stages}
    assert done["stages/start"][0] == done["stages/start"][1] >= 1


def test_a_run_goes_on_from_the_map_of_another(rough, registered, pair, thread_client, small_config, tmp_path):
    config = small_config(f"affine.start={rough.url}", "ladder.coarsest=null", "blocks.core=64")
    fine = register(
        registered.fixed, registered.moving, out=str(tmp_path / "fine.zarr"), config=config, client=thread_client
    )
    # The same levels as in one run; only the lattices lie a little differently.
    after, whole = tre(pair, fine), tre(pair, registered.run)
    assert abs(after.mean - whole.mean) < 0.15 * whole.mean


def test_a_start_that_cannot_be_one_is_refused_before_any_work(registered, files, pair, small_config, tmp_path):
    def attempt(start, *more, fixed=registered.fixed):
        config = small_config(f"affine.start={start}", *more)
        return register(fixed, registered.moving, out=str(tmp_path / "r.zarr"), config=config)

    np.savetxt(tmp_path / "far.csv", FAR, delimiter=",")
    larger = (np.pad(pair.fixed, 30), pair.spacing)
    for arguments, error, message in (
        ((files / "map.h5",), InputError, "holds displacements"),
        ((tmp_path / "none.mat",), InputError, "does not exist"),
        ((tmp_path / "far.csv",), InputError, "leaves fixed and moving apart"),
        ((f"{registered.run.url}:inverse",), InputError, "forwards only"),
        ((registered.run.url, "ladder.coarsest=4"), ConfigError, "ladder.coarsest 4 would lose"),
        ((registered.run.url, "ladder.finest=2", "ladder.coarsest=null"), ConfigError, "ladder.finest 2 would lose"),
    ):
        with pytest.raises(error, match=message):
            attempt(*arguments)
    with pytest.raises(InputError, match="smaller images"):
        attempt(registered.run.url, "ladder.coarsest=null", fixed=larger)
    assert not (tmp_path / "r.zarr").exists()


def test_a_plan_knows_the_given_start(registered, files, small_config):
    config = small_config(f"affine.start={registered.run.url}", "ladder.coarsest=null")
    foreseen = plan(registered.fixed, registered.moving, config=config)
    assert len(foreseen.levels) == 1
    maps = registered.run.store.array("levels/0/maps/fixed")
    arrays = {a.place: (a.shape, a.unit) for a in foreseen.work.arrays}
    assert arrays["start/fixed"] == arrays["start/moving"] == (maps.shape, maps.chunks)
    (stage,) = (w for w in foreseen.stages if w.name == "stages/start")
    assert stage.bytes_written == stage.bytes_read == 2 * 4 * np.prod(maps.shape)
