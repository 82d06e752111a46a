"""Labels as further channels: they steer where the images say nothing."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy import ndimage

import bigreg
from bigreg import load_config, register
from bigreg.engines.network import SITRegEngine
from bigreg.errors import ConfigError, InputError
from bigreg.pipeline.context.label_images import CommonLabels
from bigreg.pipeline.planning.plan import plan

SPACING = (4.0, 4.0, 4.0)
SHAPE = (48, 48, 48)
SHIFT = np.array([0.0, 12.0, -8.0])  # um, of the ball, from fixed to moving
CENTRE = np.array([96.0, 88.0, 98.0])
RADIUS = 30.0


def ball(shape, spacing, centre) -> np.ndarray:
    places = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij"))
    return np.linalg.norm(places - np.reshape(centre, (3, 1, 1, 1)), axis=0)


@pytest.fixture(scope="module")
def images():
    """A shell of texture that stays where it is, around a flat inside with the noise of two cameras."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5)
    shell = np.where(ball(SHAPE, SPACING, CENTRE) > 72, 0.5 + 2 * texture, 0.5)
    return [((1000 * (shell + 0.02 * rng.standard_normal(SHAPE))).clip(0).astype(np.uint16), SPACING) for _ in range(2)]


def labelled(centre, spacing=SPACING, shape=SHAPE) -> np.ndarray:
    """7 in a ball, 300 in the cap above it."""
    distance = ball(shape, spacing, centre)
    above = np.arange(shape[0])[:, None, None] * spacing[0] > centre[0] + 8
    return np.where(distance < RADIUS, np.where(above, 300, 7), 0).astype(np.uint16)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Labels of fixed on its voxels in a file without a spacing, and of moving on coarser voxels of another shape."""
    folder = tmp_path_factory.mktemp("labels")
    tifffile.imwrite(folder / "fixed.tif", labelled(CENTRE), photometric="minisblack")
    other = bigreg.open_volume(labelled(CENTRE + SHIFT, (6.0, 5.0, 8.0), (32, 38, 24)), spacing=(6.0, 5.0, 8.0))
    bigreg.convert(other, str(folder / "moving.ome.zarr"))
    return str(folder / "fixed.tif"), str(folder / "moving.ome.zarr")


def settings(small_config, files=None, *more):
    steered = [] if files is None else [f"labels={{fixed: '{files[0]}', moving: '{files[1]}'}}"]
    small = ["affine.kind=none", "blocks.core=24", "engine_options.optimise.least_agreement=null"]
    return small_config(*small, *steered, *more)


@pytest.fixture(scope="module")
def steered(images, files, thread_client, tmp_path_factory, small_config):
    out = str(tmp_path_factory.mktemp("steered") / "run.zarr")
    return register(*images, out=out, config=settings(small_config, files), client=thread_client)


def moved(run) -> np.ndarray:
    """(3,) um by which the middle of the ball is moved, from fixed to moving, on average."""
    inside = np.argwhere(ball(SHAPE, SPACING, CENTRE) < 0.7 * RADIUS) * SPACING
    return (run.map_points(inside) - inside).mean(0)


def test_labels_steer_where_the_images_say_nothing(steered, images, thread_client, tmp_path, small_config):
    alone = register(*images, out=str(tmp_path / "run.zarr"), config=settings(small_config), client=thread_client)
    assert np.linalg.norm(moved(alone) - SHIFT) > 0.9 * np.linalg.norm(SHIFT)
    assert np.linalg.norm(moved(steered) - SHIFT) < 0.2 * np.linalg.norm(SHIFT)


def test_the_images_decide_where_they_show_something(steered):
    shell = np.argwhere(ball(SHAPE, SPACING, CENTRE) > 80) * SPACING
    assert np.linalg.norm(steered.map_points(shell) - shell, axis=1).mean() < 0.1 * SPACING[0]


def test_a_map_that_labels_steer_does_not_fold(steered):
    rows = {(group, name): value for group, name, value, _, _ in steered.summary()}
    assert rows["regularity", "folds, fixed_to_moving"] == rows["regularity", "folds, moving_to_fixed"] == 0


def test_exchanging_images_and_labels_exchanges_the_maps(
    steered, images, files, thread_client, tmp_path, small_config, same_bits
):
    config = settings(small_config, files[::-1])
    back = register(*images[::-1], out=str(tmp_path / "run.zarr"), config=config, client=thread_client)
    a = steered.store.array("transforms", "fixed_to_moving", "0")[...]
    b = back.store.array("transforms", "moving_to_fixed", "0")[...]
    assert np.abs(a - b).max() < 0.01 * SPACING[0]


def test_a_run_keeps_which_labels_it_compares(steered):
    kept = steered.store.attributes["labels"]
    assert kept["values"] == [7, 300] and kept["weights"][0] < 1 < kept["weights"][1]
    assert np.mean(kept["weights"]) == pytest.approx(1)


def test_the_plan_with_labels_names_the_stages_of_the_run(steered, images, files, small_config):
    planned = {s.name for s in plan(*images, config=settings(small_config, files)).stages}
    assert planned == {name for name, _, _ in steered.store.attributes["stages"]}


def test_the_commonest_labels_of_both_are_compared():
    fixed = np.repeat(np.arange(40), 1 + np.arange(40)).reshape(1, 1, -1)
    found = CommonLabels.of(fixed, np.where(fixed == 39, 0, fixed))
    assert found.values == tuple(range(38, 24, -1))
    assert found.weights == tuple(sorted(found.weights))


def test_labels_without_one_in_common_are_refused():
    with pytest.raises(InputError, match="no label in common: fixed has 1, moving 2"):
        CommonLabels.of(np.ones((2, 2, 2), int), np.full((2, 2, 2), 2))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            lambda p: tifffile.imwrite(p, np.zeros((20, 30, 40), np.uint8), photometric="minisblack"),
            "nor an integer part of it",
        ),
        (lambda p: None, "does not exist"),
    ],
    ids=["another shape", "missing"],
)
def test_labels_that_lie_nowhere_are_refused(write, said, images, files, tmp_path, small_config):
    write(tmp_path / "labels.tif")
    config = settings(small_config, (files[0], str(tmp_path / "labels.tif")))
    with pytest.raises(InputError, match=said):
        register(*images, out=str(tmp_path / "run.zarr"), config=config)
    assert not (tmp_path / "run.zarr").exists()


def test_a_network_alone_takes_no_labels(images, files, tmp_path, small_config):
    assert not hasattr(SITRegEngine, "takes_labels")
    network = ["engine=sitreg", "engine_options.sitreg.weights=random"]
    config = load_config(settings(small_config, files).model_dump(), overrides=network)
    with pytest.raises(ConfigError, match=r"takes no labels.*\[sitreg, optimise\]"):
        register(*images, out=str(tmp_path / "run.zarr"), config=config)
