"""Real tissue, in a size that fits a test: what must hold whatever the images are."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg import load_config, open_volume, register

pytestmark = pytest.mark.data
SETTINGS = ["ladder.finest=4", "ladder.samples=4", "affine.rotations_deg=5"]


def figures(run):
    return {(group, name): value for group, name, value, *_ in run.summary()}


@pytest.fixture(scope="module")
def rounds(data_folder, thread_client, tmp_path_factory):
    """easifish at a quarter of its resolution, in blocks."""
    folder = data_folder / "easifish"
    out = str(tmp_path_factory.mktemp("easifish") / "run.zarr")
    config = load_config(preset="rounds", overrides=[*SETTINGS, "blocks.core=32"])
    return register(folder / "fix.n5", folder / "mov.n5", out=out, config=config, client=thread_client)


def test_two_rounds_of_one_tissue_come_to_agree(rounds):
    f = figures(rounds)
    assert f["similarity", "NCC after the affine"] > 0.8
    assert f["similarity", "NCC after the deformation"] > 0.85
    assert f["similarity", "local correlation after the deformation"] > 0.8
    assert f["regularity", "folds, fixed_to_moving"] == f["regularity", "folds, moving_to_fixed"] == 0
    assert f["inverse error", "99.9th percentile"] <= 0.1


def test_blocks_of_real_tissue_agree_with_one_single_patch(rounds, data_folder, thread_client, tmp_path):
    folder = data_folder / "easifish"
    config = load_config(preset="rounds", overrides=[*SETTINGS, "blocks.core=512", "output.warped=false"])
    whole = register(
        folder / "fix.n5", folder / "mov.n5", out=str(tmp_path / "w.zarr"), config=config, client=thread_client
    )
    grid = rounds._context().frames.fixed
    index = np.stack(np.meshgrid(*(np.arange(4, n - 4, 6) for n in grid.shape), indexing="ij"), -1).reshape(-1, 3)
    points = grid.index_to_world(index)
    there = whole.map_points(points)
    inside = rounds._context().frames.moving.contains(there)
    difference = (there - rounds.map_points(points))[inside] / grid.spacing
    assert np.percentile(np.linalg.norm(difference, axis=1), 95) <= 0.25


def test_a_brain_of_slices_is_turned_and_placed_in_an_atlas(data_folder, thread_client, tmp_path):
    """270 TIFF slices, psl, against the 100 um template: tissue on tissue."""
    moving = open_volume(
        data_folder / "mouse_tiff", spacing=(50, 40, 40), orientation="psl", name="moving"
    )  # fmt: skip
    fixed = open_volume(data_folder / "ccf_100um" / "average_template_100.nrrd", orientation="rsa", name="fixed")
    config = load_config(preset="brain-to-atlas", overrides=["ladder.finest=1", "ladder.repeats=[1]"])
    run = register(fixed, moving, out=str(tmp_path / "r.zarr"), config=config, client=thread_client)
    scales = np.linalg.svd(run.affine[:3, :3], compute_uv=False)
    assert (scales > 0.7).all() and (scales < 1.4).all()
    template = fixed.read((0, 0, 0), fixed.shape)
    warped = open_volume(run.store.path("warped")).read((0, 0, 0), fixed.shape)
    tissue = [image > 0.25 * np.percentile(image, 99) for image in (template, warped)]
    dice = 2 * (tissue[0] & tissue[1]).sum() / (tissue[0].sum() + tissue[1].sum())
    assert dice > 0.85
    assert figures(run)["regularity", "folds, fixed_to_moving"] == 0
