"""A hole in one image, through a whole run: what it does to the map, what the run says of it, and to whom."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from scipy import ndimage

from bigreg import open_run, register
from bigreg.cluster import Cluster
from bigreg.cluster import client as local_client
from bigreg.errors import InputError
from bigreg.pipeline.context.engines import matched_by
from bigreg.pipeline.judging.status import unmatched_share
from bigreg.pipeline.store.store import RunStore
from bigreg.pipeline.tasks import estimate
from bigreg.quality.confidence import LARGE, TILE

CENTRE, RADIUS = (20, 28, 32), 11.0  # voxels of moving
SETTINGS = ["affine.kind=none", "blocks.core=64", "output.warped=false"]
PLACE = "levels/0/noncorrespondence"


def ball(shape):
    return np.sqrt(sum((g - c) ** 2 for g, c in zip(np.indices(shape), CENTRE, strict=True))) < RADIUS


@pytest.fixture(scope="module")
def holed(pair):
    """The small pair, moving without a ball; and where that is in the fixed image."""
    moving = np.where(ball(pair.moving.shape), np.percentile(pair.moving, 1), pair.moving).astype(pair.moving.dtype)
    places = pair.truth / np.reshape(pair.spacing, (3, 1, 1, 1))
    gone = ndimage.map_coordinates(ball(moving.shape).astype("f4"), places, order=1) > 0.5
    return (pair.fixed, pair.spacing), (moving, pair.spacing), gone


@pytest.fixture(scope="module")
def runs(holed, small_config, thread_client, tmp_path_factory):
    """With the mask, without it, and with the images exchanged."""
    fixed, moving, _ = holed
    folder = tmp_path_factory.mktemp("holes")

    def run(name, a, b, *settings):
        config = small_config(*SETTINGS, *settings)
        return register(a, b, out=str(folder / f"{name}.zarr"), config=config, client=thread_client)

    return {
        "on": run("on", fixed, moving),
        "off": run("off", fixed, moving, "masks.noncorrespondence=false"),
        "swapped": run("swapped", moving, fixed),
    }


def mask(run):
    volume = run.noncorrespondence
    return volume.read((0, 0, 0), volume.shape) > 0


def errors(run, pair):
    points = np.moveaxis(np.indices(pair.fixed.shape), 0, -1).reshape(-1, 3) * pair.spacing
    found = (run.map_points(points) - pair.truth.reshape(3, -1).T) / pair.spacing
    return np.linalg.norm(found, axis=1).reshape(pair.fixed.shape)


def test_the_hole_is_found_in_the_fixed_frame(runs, holed):
    found, gone = mask(runs["on"]), holed[2]
    assert found.shape == gone.shape
    assert (found & gone).sum() > 0.7 * gone.sum()
    assert (found & gone).sum() > 0.6 * found.sum()


def test_tissue_around_the_hole_stays_where_it_belongs_and_the_rest_is_no_worse(runs, holed, pair):
    gone = holed[2]
    rim = (ndimage.distance_transform_edt(~gone) <= 6) & ~gone
    inner = np.zeros_like(gone)
    inner[(slice(6, -6),) * 3] = True
    on, off = errors(runs["on"], pair), errors(runs["off"], pair)
    assert on[rim & inner].mean() < 0.7 * off[rim & inner].mean()
    assert on[gone & inner].mean() < 0.8 * off[gone & inner].mean()
    far = ~gone & ~rim & inner
    assert on[far].mean() < 1.02 * off[far].mean()


def test_no_map_folds(runs):
    for run in runs.values():
        figures = run.metrics()
        for direction in ("fixed_to_moving", "moving_to_fixed"):
            assert np.nansum(figures[f"stages/{direction}"]["folds"]) == 0


def test_exchanged_images_give_the_same_mask_and_the_inverse_map(runs, pair):
    there, back = (runs[name].store.array(PLACE)[...] for name in ("on", "swapped"))
    assert there.any() and (there != back).mean() < 1e-3
    rng = np.random.default_rng(0)
    points = rng.uniform(0.3, 0.7, (200, 3)) * pair.fixed.shape * pair.spacing
    apart = runs["on"].map_points(points) - runs["swapped"].map_points(points, "moving_to_fixed")
    assert np.abs(apart).max() < 0.05 * min(pair.spacing)


def test_two_workers_give_the_same_bits(runs, holed, small_config, tmp_path, same_bits):
    with local_client(Cluster(workers=2, threads=1)) as client:
        again = register(*holed[:2], out=str(tmp_path / "two.zarr"), config=runs["on"].config, client=client)
    for place in (PLACE, "noncorrespondence/0"):
        assert np.array_equal(again.store.array(place)[...], runs["on"].store.array(place)[...])
    assert same_bits(again, runs["on"], but=("warped/0",))


def test_smaller_blocks_find_the_same_hole(runs, holed, small_config, thread_client, tmp_path):
    config = small_config(*SETTINGS, "blocks.core=32", "blocks.halo=12")
    run = register(*holed[:2], out=str(tmp_path / "small.zarr"), config=config, client=thread_client)
    one, other = mask(run), mask(runs["on"])
    assert (one & other).sum() > 0.7 * (one | other).sum()


def test_blocks_tell_their_share_and_the_run_its_own(runs, holed):
    run = runs["on"]
    shares = run.metrics()["levels/0"]["unmatched"]
    assert 0 < np.nanmax(shares) <= 0.25
    found = mask(run)
    assert unmatched_share(run.store) == pytest.approx(found.mean(), rel=0.3)
    assert np.isnan(unmatched_share(runs["off"].store))
    assert any("no counterpart" in note for note in run.status().notes) and not runs["off"].status().notes


def test_points_know_whether_they_have_a_counterpart(runs, holed, pair, tmp_path):
    inside = np.argwhere(mask(runs["on"]))[::20] * pair.spacing
    outside = np.argwhere(ndimage.distance_transform_edt(~mask(runs["on"])) > 3)[::5000] * pair.spacing
    points = np.concatenate([inside, outside])
    np.savetxt(tmp_path / "in.csv", points, delimiter=",", header="z,y,x", comments="", fmt="%.6f")
    runs["on"].map_file(tmp_path / "in.csv", tmp_path / "out.csv", noncorrespondence=True)
    found = np.genfromtxt(tmp_path / "out.csv", delimiter=",", names=True)["noncorrespondence"]
    assert (found[: len(inside)] == 1).all() and (found[len(inside) :] == 0).all()


@pytest.mark.parametrize("name", ["on", "swapped"])  # the image that shows less is moving, and fixed
def test_what_has_no_counterpart_has_no_risk_and_what_lies_beside_it_has(runs, name):
    found = mask(runs[name])
    padded = np.pad(found, [(0, -n % TILE) for n in found.shape])
    z, y, x = (n // TILE for n in padded.shape)
    share = padded.reshape(z, TILE, y, TILE, x, TILE).mean((1, 3, 5))
    risk = runs[name].store.array("confidence", "0")[...]
    gone = share > 0.6
    beside = ndimage.binary_dilation(gone) & (share < 0.2)
    assert gone.any() and np.isnan(risk[gone]).all()
    assert beside.any() and np.isfinite(risk[beside]).mean() > 0.9
    centre = (
        (np.argwhere(gone)[0] + 0.5) * TILE * runs[name].store.array("confidence", "0").attributes["large_um"] / LARGE
    )
    assert np.isnan(runs[name].risk_at(centre[None])).all()


def test_a_run_that_does_not_look_says_why(runs):
    assert not estimate.keeps_unmatched(runs["off"]._context(), runs["off"]._context().levels[0])
    with pytest.raises(InputError, match="noncorrespondence is false"):
        _ = runs["off"].noncorrespondence


@pytest.mark.parametrize("similarity", ["mi", "mind"])
def test_other_contrasts_are_not_looked_at(small_config, similarity, runs):
    config = small_config(f"engine_options.optimise={{similarity: {similarity}}}")
    context = runs["on"]._context()
    assert matched_by(runs["on"].config, context.levels[0], len(context.levels)) == "lncc"
    assert matched_by(config, context.levels[0], len(context.levels)) is None


def test_a_run_that_an_earlier_version_began_does_without(runs, tmp_path):
    url = shutil.copytree(runs["on"].url, tmp_path / "old.zarr")
    store = RunStore(str(url))
    config = dict(store.attributes["config"])
    config["masks"] = {k: v for k, v in config["masks"].items() if k != "noncorrespondence"}
    store.update(config=config)
    with pytest.raises(InputError, match="earlier version"):
        _ = open_run(str(url)).noncorrespondence
