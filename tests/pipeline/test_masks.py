"""Masks: what they hide does not pull, however loud it is; found tissue is tissue."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bigreg import load_config, register
from bigreg.errors import InputError
from bigreg.pipeline.masks import find_tissue
from bigreg.quality.metrics import target_registration_error
from bigreg.volumes import convert


def brain(noise=0.01, seed=0):
    """A bright ellipsoid with holes and texture on a dim ground, a speck of dirt beside it, and where it truly is."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((40, 56, 64))
    inside = ((z - 20) / 15) ** 2 + ((y - 28) / 20) ** 2 + ((x - 30) / 24) ** 2 < 1
    image = 0.05 + inside * (0.5 + 0.3 * ndimage.gaussian_filter(rng.standard_normal(inside.shape), 2) * 5)
    image[18:22, 26:30, 28:32] = 0.05  # a ventricle
    image[2:4, 2:4, 60:62] = 0.9
    return (image + noise * rng.standard_normal(image.shape)).astype(np.float32), inside


def test_tissue_is_found_without_dirt_and_holes():
    image, inside = brain()
    found = find_tissue(image)
    assert found[inside].mean() > 0.99 and found[20, 28, 30]
    assert not found[2, 2, 60]
    assert found.sum() < 1.6 * inside.sum()  # the margin of two voxels is in it


@pytest.mark.parametrize("kind", ["noise", "ramp"])
def test_an_image_without_background_is_all_tissue(kind):
    rng = np.random.default_rng(0)
    image = {"noise": rng.random((20, 20, 20)), "ramp": np.indices((20, 20, 20)).sum(0) / 57}[kind]
    assert find_tissue(image.astype(np.float32)).all()


def test_what_a_mask_hides_does_not_pull(pair, thread_client, small_config, tmp_path):
    """A loud pattern in a third of both images that says something else: hidden in one of them, it does not count."""
    rng = np.random.default_rng(1)
    loud = (pair.moving.max() * ndimage.gaussian_filter(rng.random(pair.fixed.shape), 1.5) * 4).astype(
        pair.moving.dtype
    )
    fixed, moving = pair.fixed.copy(), pair.moving.copy()
    fixed[:, :18], moving[:, :18] = loud[:, :18], np.roll(loud, 4, axis=2)[:, :18]
    mask = np.ones(fixed.shape, np.uint8)
    mask[:, :22] = 0
    convert(mask, tmp_path / "mask.ome.zarr", spacing=pair.spacing, labels=True)

    index = np.argwhere(pair.mask & (np.indices(fixed.shape)[1] >= 26))[::7]
    points, truth = index * np.asarray(pair.spacing), pair.truth[:, *index.T].T.astype(float)
    errors = {}
    for name, choice in (("without", "none"), ("with", str(tmp_path / "mask.ome.zarr"))):
        run = register((fixed, pair.spacing), (moving, pair.spacing), out=str(tmp_path / f"{name}.zarr"),
                       config=small_config(f"masks.fixed={choice}"), client=thread_client)  # fmt: skip
        errors[name] = target_registration_error(run.map_points(points), truth).mean
    assert errors["with"] < 0.6 * min(pair.spacing)
    assert errors["with"] < 0.9 * errors["without"]


def test_masks_that_cannot_be_used_are_refused_before_any_work(pair, tmp_path):
    def start(mask):
        config = load_config(preset="demo", overrides=[f"masks.moving={mask}"])
        register((pair.fixed, pair.spacing), (pair.moving, pair.spacing), out=str(tmp_path / "r.zarr"), config=config)

    with pytest.raises(InputError, match=r"nothing\.tif"):
        start(tmp_path / "nothing.tif")
    convert(np.ones((8, 8, 8), np.uint8), tmp_path / "far.ome.zarr", spacing=(1, 1, 1), origin=(1e5, 0, 0))
    with pytest.raises(InputError, match="do not overlap"):
        start(tmp_path / "far.ome.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_a_mask_that_hides_everything_is_refused(pair, thread_client, small_config, tmp_path):
    convert(np.zeros(pair.fixed.shape, np.uint8), tmp_path / "empty.ome.zarr", spacing=pair.spacing)
    with pytest.raises(Exception, match="mask is empty"):
        register((pair.fixed, pair.spacing), (pair.moving, pair.spacing), out=str(tmp_path / "r.zarr"),
                 config=small_config(f"masks.fixed={tmp_path / 'empty.ome.zarr'}"), client=thread_client)  # fmt: skip


def test_found_tissue_serves_a_run(pair, registered, thread_client, small_config, tmp_path):
    settings = small_config("masks.fixed=tissue", "masks.moving=tissue")
    run = register(registered.fixed, registered.moving, out=str(tmp_path / "r.zarr"), config=settings,
                   client=thread_client)  # fmt: skip
    index = np.argwhere(pair.mask)[::29]
    points, truth = index * np.asarray(pair.spacing), pair.truth[:, *index.T].T.astype(float)
    assert target_registration_error(run.map_points(points), truth).mean < 0.6 * min(pair.spacing)
    assert 0.05 < run.store.array("masks", "fixed")[...].mean() < 0.95
