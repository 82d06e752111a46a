"""Without a deformation the affine is the whole map, and everything that a run hands out goes by it."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from bigreg import chain, load_config, open_run, plan, register
from bigreg.cli import app
from bigreg.errors import ConfigError, StoppedError
from bigreg.transforms.affine import apply_affine

from .phantoms import SPACING, common, rotation, see, through, truth

SETTINGS = ["deformation=false", "affine.kind=rigid", "output.chunk=16", "output.shard=32"]
LEAST = 0.07
"""Voxels: by how much a rigid map of these images may err."""
FIXED = see(through(), seed=1)
TURNED = see(through(rotation(7.0), shift=(220.0, -150.0, 90.0)), seed=2)


def registered(moving, out, client, **more):
    config = load_config(preset="rounds", overrides=SETTINGS)
    volumes = FIXED.volume("fixed"), moving.volume("moving")
    return register(*volumes, out=str(out), config=config, client=client, **more)


@pytest.fixture(scope="module")
def rigid(thread_client, tmp_path_factory):
    return registered(TURNED, tmp_path_factory.mktemp("rigid") / "run.zarr", thread_client)


def error(run, moving):
    places = common(FIXED, moving)
    return np.linalg.norm(run.map().points(places) - apply_affine(truth(FIXED, moving), places), axis=1) / SPACING


def test_the_map_is_the_rigid_one_that_was_found(rigid):
    places = common(FIXED, TURNED)
    assert np.allclose(rigid.affine[:3, :3] @ rigid.affine[:3, :3].T, np.eye(3), atol=1e-6)
    assert np.allclose(rigid.map().points(places), apply_affine(rigid.affine, places), atol=0.01)
    assert error(rigid, TURNED).mean() < LEAST


def test_there_and_back_is_where_one_began(rigid):
    places = common(FIXED, TURNED)
    there = rigid.map_points(places, "fixed_to_moving")
    assert np.allclose(rigid.map_points(there, "moving_to_fixed"), places, atol=0.01)


def test_what_is_aligned_stays_so(thread_client, tmp_path):
    aligned = see(through(), seed=2)
    assert error(registered(aligned, tmp_path / "run.zarr", thread_client), aligned).mean() < LEAST


def test_it_has_a_warped_image_a_verdict_figures_and_a_report(rigid):
    found = {(group, name): value for group, name, value, _, _ in rigid.summary()}
    assert found["similarity", "NCC after the deformation"] > 0.97
    assert found["similarity", "NCC after the affine"] == pytest.approx(
        found["similarity", "NCC after the deformation"]
    )
    assert found["regularity", "largest displacement, fixed_to_moving"] == 0
    assert rigid.verdict.level == "good"
    assert rigid.store.path("report").endswith("report") and open_run(rigid.url).report()
    warped = rigid.warped[...].astype(float)
    inside = warped > 0
    assert np.corrcoef(warped[inside], FIXED.data[inside])[0, 1] > 0.97


def test_it_is_warped_and_exported_and_carries_points(rigid, tmp_path):
    made = rigid.warp(TURNED.volume("again"), out=str(tmp_path / "again.ome.zarr"))
    assert np.array_equal(made[...], rigid.warped[...])
    for name in ("field.nii.gz", "composite.h5", "affine.txt", "matrix.csv"):
        rigid.export(str(tmp_path / name), format="matrix" if name == "matrix.csv" else None)
    back = chain(str(tmp_path / "matrix.csv"), fixed=FIXED.volume("fixed"), moving=TURNED.volume("moving"))
    places = common(FIXED, TURNED)
    assert np.allclose(
        back.map_points(places, "fixed_to_moving"), rigid.map_points(places, "fixed_to_moving"), atol=0.01
    )


def test_a_run_that_was_stopped_goes_on_to_the_same(rigid, thread_client, tmp_path):
    class Stops:
        def plan(self, stages): ...
        def stage(self, name, title, blocks, done): ...
        def finish(self, name): ...

        def block(self, name, status, index):
            if name.endswith("compose/0"):
                raise StoppedError("enough")

    with pytest.raises(StoppedError):
        registered(TURNED, tmp_path / "run.zarr", thread_client, progress=Stops())
    again = open_run(str(tmp_path / "run.zarr")).resume(client=thread_client)
    assert np.array_equal(again.map().points(common(FIXED, TURNED)), rigid.map().points(common(FIXED, TURNED)))


def test_the_plan_looks_at_no_patch(tmp_path):
    config = load_config(preset="rounds", overrides=["deformation=false"])
    made, whole = (plan(shape=(400, 400, 400), spacing=(1, 1, 1), config=c) for c in (config, load_config("rounds")))
    assert made.memory_per_worker <= whole.memory_per_worker and made.worker_seconds < whole.worker_seconds / 2
    assert ("deformation", "none: the affine alone") in made.rows()


def test_landmarks_and_runs_to_begin_with_are_refused(rigid, tmp_path):
    with pytest.raises(ConfigError, match="affine.start"):
        load_config(preset="rounds", overrides=["deformation=false", "landmarks.path=pairs.csv"])
    config = load_config(preset="rounds", overrides=[*SETTINGS, f"affine.start={rigid.url}"])
    with pytest.raises(ConfigError, match="affine alone"):
        register(FIXED.volume("fixed"), TURNED.volume("moving"), out=str(tmp_path / "run.zarr"), config=config)


def test_the_command_line_has_a_flag_for_it():
    found = CliRunner().invoke(app, ["register", "--help"], env={"COLUMNS": "200"})
    assert "--affine-only" in found.output
