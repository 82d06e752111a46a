"""Sigma that a run keeps: where it lies, how points get it, and that nobody's number of workers changes it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from bigreg import open_run, open_volume, register, storage
from bigreg.engines.optimise import Optimise
from bigreg.errors import InputError
from bigreg.quality.confidence import TILE

COLUMNS = ["sigma_z_um", "sigma_y_um", "sigma_x_um", "sigma_um"]


def inner_points(registered, count=50):
    rng = np.random.default_rng(0)
    shape = np.asarray(registered.fixed[0].shape)
    return rng.uniform(0.3, 0.7, (count, 3)) * shape * registered.fixed[1]


def table(run, folder, points, direction="fixed_to_moving"):
    np.savetxt(folder / "in.csv", points, delimiter=",", header="z,y,x", comments="", fmt="%.6f")
    (folder / "out.csv").unlink(missing_ok=True)
    run.map_file(folder / "in.csv", folder / "out.csv", direction=direction, sigma=True)
    names = (folder / "out.csv").read_text().splitlines()[0].split(",")
    values = np.genfromtxt(folder / "out.csv", delimiter=",", skip_header=1)
    return dict(zip(names, values.T, strict=True))


@pytest.fixture
def copy(registered, tmp_path):
    return open_run(shutil.copytree(registered.run.url, tmp_path / "copy.zarr"))


def test_it_is_an_image_of_three_channels_in_the_fixed_frame(registered):
    image = open_volume(registered.run.store.path("sigma"))
    spacing = np.asarray(registered.fixed[1])
    assert image.channels == 3
    assert image.shape == tuple(-(-n // TILE) for n in registered.fixed[0].shape)
    assert np.allclose(image.grid().spacing, spacing * TILE)
    assert np.allclose(image.grid().origin, (TILE - 1) / 2 * spacing)
    values = registered.run.store.array("sigma", "0")[...]
    known = np.isfinite(values).all(0)
    assert known.mean() > 0.5 and values[:, known].min() > 0 and np.median(values[:, known]) < 3 * spacing.max()
    metrics = registered.run.metrics()["stages/sigma"]
    assert np.nansum(metrics["tiles"]) == known.sum()
    assert np.array_equal(registered.run.sigma.read((0, 0, 0), image.shape), values[0], equal_nan=True)


def test_points_get_columns_in_the_world_that_they_end_in(registered, tmp_path):
    points = inner_points(registered)
    run, own = registered.run, registered.run.sigma_at(points)
    forth = table(run, tmp_path, points)
    assert list(forth) == ["z", "y", "x", *COLUMNS]
    told = np.stack([forth[name] for name in COLUMNS], 1)
    turned = np.sqrt(own.astype(float) ** 2 @ np.square(run.affine[:3, :3]).T)
    assert np.isfinite(own).all() and np.allclose(told[:, :3], turned, atol=1e-4)
    assert np.allclose(told[:, 3], np.sqrt((told[:, :3] ** 2).sum(1)), atol=2e-4)
    back = table(run, tmp_path, run.map_points(points), "moving_to_fixed")
    assert np.allclose(np.stack([back[name] for name in COLUMNS[:3]], 1), own, atol=1e-4)
    inverse = table(run.inverse, tmp_path, run.map_points(points))
    assert all(np.array_equal(inverse[name], back[name]) for name in COLUMNS)


def test_swapped_images_have_the_same_at_corresponding_points(registered, thread_client, tmp_path, small_config):
    swapped = register(
        registered.moving, registered.fixed, out=str(tmp_path / "swapped.zarr"), config=small_config(),
        client=thread_client,
    )  # fmt: skip
    points = inner_points(registered, 300)
    there = table(registered.run, tmp_path, points)
    back = swapped.sigma_at(registered.run.map_points(points))
    ratio = np.stack([there[name] for name in COLUMNS[:3]], 1) / back
    # Tiles of the two images do not lie on one another: single points differ, all of them hardly.
    assert abs(np.median(ratio) - 1) < 0.03 and np.percentile(abs(np.log(ratio)), 90) < 0.5


def test_what_was_interrupted_is_done_again_to_the_same_bits(registered, copy, thread_client, same_bits):
    for place in ("sigma", "stages/sigma", "levels/0/sigma", "levels/0/stitch"):
        storage.remove(copy.store.path(place))
    copy.store.update(state="incomplete")
    again = open_run(copy.url).resume(client=thread_client)
    assert same_bits(registered.run, again)


def test_a_run_of_before_it_was_kept_says_so_and_goes_on_without(copy, thread_client):
    for place in ("sigma", "stages/sigma", "levels/0/sigma", "levels/0/patch_sigma"):
        storage.remove(copy.store.path(place))
    copy.store.update(state="incomplete")
    done = open_run(copy.url).resume(client=thread_client)
    assert done.status().state == "finished" and not storage.exists(copy.store.path("sigma"))
    with pytest.raises(InputError, match="an earlier version"):
        done.sigma_at(np.zeros((1, 3)))


def test_what_cannot_give_it_says_so(registered, copy, monkeypatch, tmp_path):
    storage.remove(copy.store.path("sigma"))
    with pytest.raises(InputError, match="no map of sigma yet"):
        copy.sigma_at(np.zeros((1, 3)))
    monkeypatch.setattr(Optimise, "gives_sigma", False)
    with pytest.raises(InputError, match="engine 'optimise' gives none"):
        table(registered.run, tmp_path, np.zeros((1, 3)))
