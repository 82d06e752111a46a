"""Pieces of torn tissue that a run proposes, and none where it is whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from bigreg import open_volume, pieces, register, storage
from bigreg.cli import app
from bigreg.errors import InputError, OutputError
from bigreg.pipeline.context.masks import given_mask
from bigreg.pipeline.judging.torn import empty, parted

HALF = 6  # voxels
SETTINGS = ("output.report=true", "affine.kind=none")


@pytest.fixture(scope="module")
def torn(pair, small_config, thread_client, tmp_path_factory):
    """A run whose fixed image is cut across x and opened, and the labels of its parts: 1, 2, 0 in the gap."""
    z, y, x = np.indices(pair.fixed.shape).astype(float)
    labels = np.where(x < 32 - HALF, 1, np.where(x >= 32 + HALF, 2, 0))
    before = z, y, np.where(labels == 2, x - HALF, x + HALF)
    cut = ndimage.map_coordinates(pair.fixed.astype("f4"), before, order=1, mode="nearest")
    mask = ndimage.map_coordinates(pair.mask.astype("f4"), before, order=0, mode="nearest") > 0
    fixed = np.where(labels > 0, cut, np.percentile(pair.fixed, 1)).astype("u2")
    out = str(tmp_path_factory.mktemp("torn") / "run.zarr")
    images = (fixed, pair.spacing), (pair.moving, pair.spacing)
    return register(*images, out=out, config=small_config(*SETTINGS), client=thread_client), labels, mask


def on_voxels(found, shape):
    """The labels at the voxels of the fixed image."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    at = np.rint(found.grid.world_to_index(index * (4.0, 2.6, 2.6))).astype(int)
    return found.labels[tuple(np.moveaxis(np.clip(at, 0, np.array(found.labels.shape) - 1), -1, 0))]


def test_torn_tissue_is_proposed_as_two_pieces_where_they_are(torn):
    run, truth, mask = torn
    found = run.propose_pieces()
    assert len(found.shares) == 2 and min(found.shares) > 0.3 and sum(found.shares) == pytest.approx(1)
    there = on_voxels(found, truth.shape)
    order = (1, 2) if (there[truth == 1] == 1).mean() > 0.5 else (2, 1)
    for label, own in zip((1, 2), order, strict=True):
        assert (there[mask & (truth == label)] == own).mean() > 0.9
    assert np.array_equal(run.propose_pieces().labels, found.labels)


def test_whole_tissue_is_one_piece(registered):
    found = registered.run.propose_pieces()
    assert found.shares == (1.0,) and set(np.unique(found.labels)) <= {0, 1}


def test_the_report_tells_of_more_than_one_piece_only(torn, registered):
    page, other = (storage.read_file(r.store.path("report"), "index.html").decode() for r in (torn[0], registered.run))
    assert "Torn tissue?" in page and "falls into 2 parts" in page and "Torn tissue?" not in other


def test_a_proposal_is_a_label_image_that_pieces_and_masks_take(torn, tmp_path):
    run, labels = torn[0], str(tmp_path / "labels.ome.zarr")
    said = CliRunner().invoke(app, ["propose", run.url, labels])
    assert said.exit_code == 0 and "2 pieces (1: " in said.output and f"{labels}:1" in said.output
    volume, found = open_volume(labels), run.propose_pieces()
    assert np.array_equal(volume.read((0, 0, 0), volume.shape), found.labels) and volume.grid() == found.grid
    joined = pieces(labels, [run, run], out=str(tmp_path / "both.zarr"))
    assert [piece.voxels for piece in joined.summary()] == np.bincount(found.labels.ravel())[1:].tolist()
    assert given_mask(f"{labels}:1", "fixed", run.fixed).labels == (1,)
    with pytest.raises(OutputError, match="labels.ome.zarr"):
        run.propose_pieces(out=labels)
    again = CliRunner().invoke(app, ["propose", run.url, str(tmp_path / "more.ome.zarr"), "--json"])
    assert json.loads(again.output)["pieces"] == list(found.shares)


def test_a_run_that_does_not_look_for_gaps_says_why(torn, small_config, tmp_path):
    run = torn[0]
    attributes = run.store.attributes
    try:
        masks = {**attributes["config"]["masks"], "noncorrespondence": False}
        run.store.update(config={**attributes["config"], "masks": masks})
        with pytest.raises(InputError, match="noncorrespondence is false"):
            run.propose_pieces()
    finally:
        run.store.update(config=attributes["config"])


def test_small_parts_and_thin_bridges_make_no_piece():
    tissue, gap = np.ones((20, 20, 40), bool), np.zeros((20, 20, 40), bool)
    gap[:, :, 18:21] = True
    gap[9:11, 9:11, 18:21] = False  # a bridge of two voxels
    labels, shares = parted(tissue, gap)
    assert len(shares) == 2 and set(labels[:, :, :18].ravel()) == {2} and set(labels[:, :, 21:].ravel()) == {1}
    assert (labels[gap] == 0).all() and (labels[~gap] > 0).all()
    gap[6:13, 6:13, 18:21] = False  # what joins them is no bridge any more
    assert len(parted(tissue, gap)[1]) == 1
    gap[:] = False
    gap[:, :, 2:4] = True  # two planes of forty are too little for a piece
    assert len(parted(tissue, gap)[1]) == 1
    with pytest.raises(InputError, match="no tissue"):
        parted(tissue, ~gap | gap)


def test_what_is_darker_than_all_tissue_is_empty_and_one_hump_of_intensities_is_not():
    rng = np.random.default_rng(0)
    image = rng.normal(0.3, 0.03, (24, 32, 40))
    image[rng.random(image.shape) < 0.1] += 0.5
    known = np.ones(image.shape, bool)
    assert not empty(image, known).any()
    image[:, :, 16:22] = rng.normal(0.02, 0.01, (24, 32, 6))
    found = empty(image, known)
    assert found[:, :, 17:21].mean() > 0.99 and found[:, :, :14].mean() < 0.01 and found[:, :, 24:].mean() < 0.01
    known[:12] = False
    assert not empty(image, known)[:12].any()
