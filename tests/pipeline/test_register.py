"""The whole path on a pair with a known answer."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bigreg import open_run, open_volume, plan, register, storage
from bigreg.cluster import local_client
from bigreg.config import Cluster
from bigreg.errors import InputError, OutputError
from bigreg.pipeline.planning.plan import make_plan
from bigreg.pipeline.store.store import Status
from bigreg.quality.metrics import min_jacobian, target_registration_error
from bigreg.transforms import ngff


def figure(run, group, name):
    return next(v for g, n, v, *_ in run.summary() if (g, n) == (group, name))


def test_the_report_tells_how_long_everything_before_it_took(registered):
    attributes = registered.run.store.attributes
    elapsed, report = attributes["elapsed"], attributes["seconds"]["stages/report"]
    assert figure(registered.run, "time and memory", "all stages") == pytest.approx(elapsed)
    page = (Path(registered.run.url) / "report" / "index.html").read_text(encoding="utf-8")
    minutes, seconds = re.search(r"blocks · (?:([0-9]+) min )?([0-9.]+) s<", page).groups(default="0")
    told = 60 * int(minutes) + float(seconds)
    assert told == pytest.approx(elapsed - report, abs=1.0) and told > 0.5 * attributes["seconds"]["levels/0"]


def tissue(pair, count=20_000):
    index = np.argwhere(pair.mask)
    index = index[:: max(1, len(index) // count)]
    return index * np.asarray(pair.spacing), pair.truth[:, *index.T].T.astype(float)


def test_the_known_map_is_found(registered, pair):
    points, truth = tissue(pair)
    error = target_registration_error(registered.run.map_points(points), truth)
    before = target_registration_error(points, truth)
    assert error.missing == 0
    assert error.mean < 0.5 * min(pair.spacing) < before.mean


def test_the_whole_stored_fields_do_not_fold(registered):
    for direction in ("fixed_to_moving", "moving_to_fixed"):
        reader = ngff.FieldReader(registered.run.store.path("transforms", direction))
        grid = reader.grids[0]
        field = reader.read(0, (0, 0, 0), grid.shape)
        assert min_jacobian(field, grid.spacing).min() > 0
        assert figure(registered.run, "regularity", f"folds, {direction}") == 0


def test_there_and_back_is_the_identity_to_a_tenth_of_a_voxel(registered, pair):
    points, _ = tissue(pair)
    rng = np.random.default_rng(0)
    points = points + rng.uniform(-0.5, 0.5, points.shape) * pair.spacing
    there = registered.run.map_points(points)
    back = registered.run.map_points(there, "moving_to_fixed")
    known = np.isfinite(back).all(1)
    assert known.mean() > 0.9
    error = np.linalg.norm((back - points)[known] / pair.spacing, axis=1)
    assert np.percentile(error, 99.9) <= 0.1
    assert figure(registered.run, "inverse error", "99.9th percentile") <= 0.1


def test_points_outside_their_frame_are_nan_and_inside_are_not(registered, pair):
    last = (np.array(pair.fixed.shape) - 1) * pair.spacing
    inside = np.array([[0, 0, 0], last, last / 2, last + np.array(pair.spacing) * 0.49])
    outside = np.array([-0.51 * np.array(pair.spacing), last + np.array(pair.spacing) * 0.51, [np.nan, 0, 0]])
    assert np.isfinite(registered.run.map_points(inside)).all()
    assert np.isnan(registered.run.map_points(outside)).all()
    assert registered.run.map_points(np.zeros((0, 3))).shape == (0, 3)


def test_swapping_the_images_inverts_the_result(registered, pair, thread_client, tmp_path, small_config):
    swapped = register(
        registered.moving, registered.fixed, out=str(tmp_path / "s.zarr"), config=small_config(), client=thread_client
    )
    np.testing.assert_allclose(swapped.affine @ registered.run.affine, np.eye(4), atol=1e-6)
    for ours, theirs in (("fixed_to_moving", "moving_to_fixed"), ("moving_to_fixed", "fixed_to_moving")):
        a = registered.run.store.array("transforms", ours, "0")[...]
        b = swapped.store.array("transforms", theirs, "0")[...]
        assert np.abs((a - b) / np.reshape(pair.spacing, (3, 1, 1, 1))).max() < 1e-3


def test_one_worker_and_two_with_two_blocks_in_hand_give_the_same_bits(registered, tmp_path, small_config, same_bits):
    with local_client(Cluster(workers=2, threads=2)) as client:
        two = register(
            registered.fixed, registered.moving, out=str(tmp_path / "two.zarr"), config=small_config(), client=client
        )
    assert same_bits(registered.run, two)


def test_without_a_warped_image_the_result_is_compared_at_the_finest_level(
    registered, thread_client, tmp_path, small_config
):
    config = small_config("output.warped=false", "ladder.finest=2", "ladder.iterations=[2]")
    run = register(
        registered.fixed, registered.moving, out=str(tmp_path / "run.zarr"), config=config, client=thread_client
    )
    assert not storage.exists(run.store.path("warped"))
    context = run._context()
    planned = make_plan(context.frames, context.volumes, config)
    compared = next(w for w in planned.stages if w.name == "stages/warped")
    assert compared.title == "comparison at the finest level"
    assert compared.counts == run.metrics()["stages/warped"]["inside"].shape
    assert np.prod(compared.counts) < registered.run.metrics()["stages/warped"]["inside"].size
    assert figure(run, "similarity", "NCC after the deformation") > 0.9


def test_what_is_left_out_changes_nothing_else_and_is_not_waited_for(
    registered, thread_client, tmp_path, small_config, same_bits
):
    images, out = (registered.fixed, registered.moving), str(tmp_path / "run.zarr")
    config = small_config("output.confidence=false", "output.sigma=false")
    run = register(*images, out=out, config=config, client=thread_client)
    assert same_bits(registered.run, run, but=("sigma/0",))
    assert not any(
        storage.exists(run.store.path(place)) for place in ("confidence", "report", "stages/report", "sigma")
    )
    assert not any(storage.exists(run.store.path("levels", 0, name)) for name in ("sigma", "patch_sigma"))
    names = {stage.name for stage in run.status().stages}
    left_out = {stage.name for stage in registered.run.status().stages} - names
    assert left_out == {"stages/confidence", "stages/report", "stages/sigma", "stages/risk_and_sigma"}
    assert run.status().state == "finished" and all(s.done + s.blank == s.blocks for s in run.status().stages)
    context = run._context()
    work = make_plan(context.frames, context.volumes, config).work
    assert names <= set(work.by_name) and not left_out & set(work.by_name)
    assert not any(array.place.startswith("confidence") for array in work.arrays)
    files = sum(1 for path in (tmp_path / "run.zarr").rglob("*") if path.is_file())
    assert abs(work.files - files) <= 0.1 * files
    with pytest.raises(InputError, match=r"output\.confidence is false"):
        run.pyramid("risk")
    with pytest.raises(InputError, match=r"output\.sigma is false"):
        run.sigma_at([[1, 1, 1]])
    assert not any(group == "confidence" for group, *_ in run.summary())
    with pytest.raises(OutputError, match="another configuration"):
        register(*images, out=out, config=small_config(), client=thread_client)
    assert storage.exists(run.report())


def test_blocks_agree_with_one_single_patch(registered, pair, thread_client, tmp_path, small_config):
    whole = register(
        registered.fixed,
        registered.moving,
        out=str(tmp_path / "whole.zarr"),
        config=small_config("blocks.core=128"),
        client=thread_client,
    )
    assert max(len(level.blocks) for level in whole._context().levels.values()) == 1
    assert max(len(level.blocks) for level in registered.run._context().levels.values()) >= 8
    points, _ = tissue(pair)
    difference = (whole.map_points(points) - registered.run.map_points(points)) / pair.spacing
    assert np.percentile(np.linalg.norm(difference, axis=1), 95) <= 0.25


def test_warping_the_moving_image_again_gives_the_runs_warped_image(registered, tmp_path):
    again = registered.run.warp(registered.moving, out=str(tmp_path / "again.ome.zarr"))
    stored = open_volume(registered.run.store.path("warped"))
    assert again.grid() == stored.grid()
    np.testing.assert_array_equal(again.read((0, 0, 0), again.shape), stored.read((0, 0, 0), stored.shape))


def test_labels_keep_their_numbers(registered, pair, tmp_path):
    labels = np.zeros(pair.fixed.shape, np.uint32)
    labels[pair.moving > np.median(pair.moving)] = 2**31 + 7
    labels[:, :, :32] += 1
    out = registered.run.warp((labels, pair.spacing), out=str(tmp_path / "l.ome.zarr"), interpolation="nearest")
    assert set(np.unique(out.read((0, 0, 0), out.shape))) <= set(np.unique(labels)) | {0}


def test_status_says_that_every_block_is_done(registered):
    status = registered.run.status()
    assert status.state == "finished" and status.done == status.blocks and not status.errors
    for level in registered.run._context().levels:
        assert set(np.unique(registered.run.store.array("levels", level, "status")[...])) <= {Status.DONE, Status.BLANK}
    assert "similarity_after" in registered.run.metrics()["levels/0"]


def test_the_report_is_there_and_loads_nothing_from_elsewhere(registered):
    with open(registered.run.report(), encoding="utf-8") as file:
        page = file.read()
    assert "http://" not in page and "https://" not in page
    assert "data:image/png" in page


def test_a_finished_run_is_opened_not_run_again(registered):
    again = register(registered.fixed, registered.moving, out=registered.run.url, config=registered.config)
    assert again.status().updated == registered.run.status().updated


def test_an_existing_output_is_never_overwritten(registered, tmp_path, small_config):
    with pytest.raises(OutputError, match="exists already"):
        register(registered.fixed, registered.moving, out=registered.run.url, config=registered.config, resume=False)
    with pytest.raises(OutputError, match="another configuration"):
        register(registered.fixed, registered.moving, out=registered.run.url, config=small_config("blocks.core=24"))
    with pytest.raises(OutputError, match="another fixed image"):
        register(registered.moving, registered.moving, out=registered.run.url, config=registered.config)
    (tmp_path / "thesis.txt").write_text("do not lose me")
    with pytest.raises(OutputError, match="not a bigreg run"):
        register(registered.fixed, registered.moving, out=str(tmp_path), config=registered.config)
    assert (tmp_path / "thesis.txt").read_text() == "do not lose me"


def test_a_plan_reads_nothing_and_foresees_the_blocks(registered):
    foreseen = plan(registered.fixed, registered.moving, config=registered.config)
    done = sum(figure(registered.run, "blocks", k) for k in ("done", "blank", "failed"))
    assert abs(foreseen.blocks - done) <= 0.5 * done
    assert foreseen.memory_per_worker > 0 and dict(foreseen.rows())["blocks"] == str(foreseen.blocks)


def test_opening_what_is_no_run_says_so(tmp_path):
    with pytest.raises(InputError, match="not a bigreg run"):
        open_run(str(tmp_path))
