"""A given start that turns the images far, or mirrors them: everything that follows works as for a small turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bigreg import open_volume, plan, register, storage
from bigreg.errors import InputError
from bigreg.transforms.affine import about, apply_affine

SHAPE, SPACING = (48, 48, 48), np.array([5.0, 4.0, 4.0])
CENTRE = (np.array(SHAPE) - 1) / 2 * SPACING
OBLIQUE = Rotation.from_rotvec(np.deg2rad(120) * np.array([0.5, 0.3, -0.81])).as_matrix()
TURNS = {"turned": OBLIQUE, "mirrored": OBLIQUE @ np.diag([1.0, 1.0, -1.0])}


@dataclass(frozen=True)
class Known:
    """Two images of one anatomy and the map between their worlds, um."""

    fixed: tuple
    moving: tuple
    start: np.ndarray
    linear: np.ndarray

    def truth(self, points):
        bent = points + 6.0 * np.sin(points[:, [1, 2, 0]] / 40.0)
        return apply_affine(self.linear, bent)


def known_pair(turn):
    rng = np.random.default_rng(5)
    speckle = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.6, mode="wrap")
    anatomy = ndimage.spline_filter(speckle / speckle.std())

    def light(points):
        radius = np.linalg.norm((points - CENTRE) / (90.0, 75.0, 66.0), axis=1)
        inside = 1 / (1 + np.exp(18 * (radius - 1)))
        values = ndimage.map_coordinates(anatomy, (points / SPACING).T, order=3, mode="grid-wrap", prefilter=False)
        return (1000 + inside * (6000 + 2000 * values)).clip(0, 65535).reshape(SHAPE).astype("uint16")

    points = np.moveaxis(np.indices(SHAPE), 0, -1).reshape(-1, 3) * SPACING
    pair = Known((), (), np.eye(4), about(turn, CENTRE, CENTRE + np.array([4.0, -3.0, 5.0])))
    start = about(
        Rotation.from_rotvec([0.05, -0.04, 0.06]).as_matrix() @ turn, CENTRE, CENTRE + np.array([9.0, 2.0, 1.0])
    )
    return Known((light(pair.truth(points)), SPACING), (light(points), SPACING), start, pair.linear)


def overrides(start, *more):
    return [f"affine.start={start}", "affine.voxels=48", "masks.fixed=tissue", "masks.moving=tissue", *more]


def written(folder, matrix):
    np.savetxt(folder / "start.csv", matrix, delimiter=",")
    return folder / "start.csv"


@pytest.fixture(scope="module", params=TURNS)
def far(request, small_config, thread_client, tmp_path_factory):
    folder, pair = tmp_path_factory.mktemp(request.param), known_pair(TURNS[request.param])
    config = small_config(
        *overrides(written(folder, pair.start), f"affine.allow_mirror={request.param == 'mirrored'}".lower()),
        "output.report=true",
    )
    return pair, register(pair.fixed, pair.moving, out=str(folder / "run.zarr"), config=config, client=thread_client)


def inner_points(count=2000):
    points = np.random.default_rng(1).uniform(-1, 1, (4 * count, 3))
    return CENTRE + points[np.linalg.norm(points, axis=1) < 0.9][:count] * (80.0, 66.0, 58.0)


def figure(run, group, name):
    return next(v for g, n, v, *_ in run.summary() if (g, n) == (group, name))


def test_points_are_right_in_both_directions(far):
    pair, run = far
    points = inner_points()
    there = run.map_points(points)
    known = np.isfinite(there).all(1)
    assert known.mean() > 0.95
    assert np.linalg.norm((there - pair.truth(points))[known], axis=1).mean() < 0.5 * SPACING.min()
    back = run.map_points(pair.truth(points), "moving_to_fixed")
    known = np.isfinite(back).all(1)
    assert known.mean() > 0.95
    assert np.linalg.norm((back - points)[known], axis=1).mean() < 0.5 * SPACING.min()


def test_nothing_folds_and_there_and_back_is_the_identity(far):
    _, run = far
    for direction in ("fixed_to_moving", "moving_to_fixed"):
        assert figure(run, "regularity", f"folds, {direction}") == 0
        assert figure(run, "regularity", f"smallest Jacobian, {direction}") > 0
    assert figure(run, "inverse error", "99.9th percentile") <= 0.1


def test_volumes_grow_by_what_the_deformation_does_and_the_sign_is_that_of_the_affine(far):
    pair, run = far
    found = run.map().determinant(inner_points(200))
    assert (np.sign(found) == np.sign(np.linalg.det(pair.linear[:3, :3]))).all()
    assert np.median(np.abs(found)) == pytest.approx(1.0, abs=0.1)


def test_the_warped_image_is_the_fixed_one_and_an_image_is_warped_back(far, tmp_path):
    pair, run = far
    assert figure(run, "similarity", "NCC after the deformation") > 0.97
    back = run.warp(open_volume(*pair.fixed[:1], spacing=pair.fixed[1]), out=str(tmp_path / "b.ome.zarr"),
                    direction="moving_to_fixed")  # fmt: skip
    image = open_volume(str(tmp_path / "b.ome.zarr")).read((0, 0, 0), SHAPE)
    seen = image > 0
    assert back is not None and seen.mean() > 0.4
    assert np.corrcoef(image[seen], pair.moving[0][seen])[0, 1] > 0.95


def test_the_report_tells_of_the_start_and_images_before_it_are_not_turned(far):
    _, run = far
    page = (Path(run.url) / "report" / "index.html").read_text(encoding="utf-8")
    assert "The start" in page and "given by the user" in page
    np.testing.assert_array_equal(run._context().frames.before, np.eye(4))
    assert storage.exists(run.store.path("report", "starts.png"))


def test_a_start_that_mirrors_is_refused_unless_it_is_allowed(small_config, tmp_path):
    pair = known_pair(TURNS["mirrored"])
    start = written(tmp_path, pair.start)
    with pytest.raises(InputError, match=r"start\.csv' mirrors.*affine.allow_mirror=true"):
        plan(pair.fixed, pair.moving, config=small_config(*overrides(start)))
    assert plan(pair.fixed, pair.moving, config=small_config(*overrides(start, "affine.allow_mirror=true")))


def test_orientation_codes_of_the_other_hand_are_no_mirror(small_config, tmp_path):
    pair = known_pair(np.eye(3))
    flip = about(np.diag([1.0, 1.0, -1.0]), CENTRE)
    start = written(tmp_path, flip @ pair.start)
    fixed, moving = (
        open_volume(v[0], spacing=v[1], orientation=code, name=which)
        for v, code, which in ((pair.fixed, "asr", "fixed"), (pair.moving, "asl", "moving"))
    )
    assert plan(fixed, moving, config=small_config(*overrides(start)))
