"""What the monitor says of a run, without a window."""

from __future__ import annotations

import json
import os
import socket
import time

import numpy as np
import psutil
import pytest

import bigreg
from bigreg.errors import InputError, OutputError, StoppedError
from bigreg.pipeline.store import stopping
from bigreg.pipeline.store.lock import working_on

pytest.importorskip("napari", reason="needs bigreg[napari]")
from napari_bigreg.monitor import model as monitor_model
from napari_bigreg.monitor.model import MonitorModel


@pytest.fixture
def held(run_copy):
    """A run that says it goes on, in this process."""
    bigreg.open_run(str(run_copy)).store.update(state="running", connected={"workers": 3, "threads": 3})
    with working_on(str(run_copy)):
        yield run_copy


def test_a_finished_run_is_complete_and_shows_its_finest_level(finished):
    snapshot = MonitorModel(str(finished)).poll()
    assert snapshot.fraction == 1 and snapshot.stage == "levels/0" and snapshot.holder is None
    assert snapshot.text.startswith("finished: ") and not snapshot.failed
    assert snapshot.statuses.shape == snapshot.blocks.grid.shape


def test_blocks_tile_both_images(finished):
    run = bigreg.open_run(str(finished))
    for stage, blocks in run.blocks().items():
        low, high = blocks.grid.bounds(faces=True)
        first, last = run.pyramid("fixed")[0].grid.bounds(faces=True)
        frame = "moving" if "moving_to_fixed" in stage else "fixed"
        if stage.startswith("levels") or frame == "fixed":
            assert (low <= first + 1e-6).all() and (high >= last - 1e-6).all(), stage
        assert run.block_status(stage).shape == blocks.grid.shape


def test_the_block_at_a_place_is_the_one_whose_middle_is_nearest(finished):
    model = MonitorModel(str(finished))
    snapshot = model.poll()
    for index in ((0, 0, 0), (1, 1, 1), tuple(n - 1 for n in snapshot.statuses.shape)):
        centre = model.centre_of(index, snapshot)
        nudge = 0.4 * np.asarray(snapshot.blocks.grid.spacing)
        assert model.index_at(centre, snapshot) == index == model.index_at(centre + nudge, snapshot)
    assert model.index_at((-1e4, 0, 0), snapshot) is None


def test_a_failed_block_says_why_and_where(failed_run):
    model = MonitorModel(str(failed_run))
    snapshot = model.poll()
    assert snapshot.stage == "levels/0" and (1, 1, 1) in snapshot.failed and "2 failed" in snapshot.text
    report = model.describe("levels/0", (1, 1, 1))
    assert report.status.name == "FAILED" and "broken on purpose" in report.message and "Traceback" in report.trace
    with pytest.raises(InputError, match=r"levels/0 has no block \(9, 9, 9\)"):
        model.describe("levels/0", (9, 9, 9))


def test_a_done_block_has_figures_and_the_worker_that_did_it(finished):
    report = MonitorModel(str(finished)).describe("levels/0", (0, 1, 1))
    assert report.status.name == "DONE" and report.worker.startswith("inproc://")
    assert {"similarity_after", "confidence", "seconds", "min_jacobian", "disagreement"} <= set(report.metrics)
    assert report.message == ""


def test_patches_are_alike_after_the_deformation(finished):
    patches = MonitorModel(str(finished)).patches("levels/0", (0, 1, 1))
    assert patches.frame == "fixed" and patches.fixed.shape == patches.moving.shape == patches.grid.shape

    seen = (patches.moving > 0) & (patches.warped > 0)  # both images are there
    before, after = (np.corrcoef(patches.fixed[seen], p[seen])[0, 1] for p in (patches.moving, patches.warped))
    assert seen.mean() > 0.5 and after > max(0.9, before)


def test_before_there_are_fields_patches_are_those_of_the_half_way_space(failed_run):
    patches = MonitorModel(str(failed_run)).patches("levels/0", (0, 0, 0))
    assert patches.frame == "half-way" and patches.fixed.any() and patches.warped.any()


def test_the_rate_is_that_of_the_last_minute_and_the_time_left_that_of_the_run(held, monkeypatch):
    pace = {"since": time.time() - 1000.0, "seconds": {"levels/0": 80.0}, "done": 0.0}
    bigreg.open_run(str(held)).store.update(pace=pace)
    now = [1000.0]
    monkeypatch.setattr(monitor_model.time, "monotonic", lambda: now[0])
    model = MonitorModel(str(held))
    status = model.run.store.array("levels/0/status", write=True)
    values = np.zeros(status.shape, np.uint8)
    status.write((0, 0, 0), values)
    assert model.poll().rate is None
    for _ in range(4):  # a block in half a minute
        now[0] += 30
        values.flat[np.flatnonzero(values == 0)[0]] = 2
        status.write((0, 0, 0), values)
        snapshot = model.poll()
    assert np.isclose(snapshot.rate, 1 / 30)
    assert np.isclose(snapshot.status.seconds_left, 1000.0 * (values.size - 4) / 4, rtol=0.05)
    assert "3 workers" in snapshot.text and "left" in snapshot.text


def test_a_run_that_says_it_goes_on_while_nobody_works_on_it_is_told_from_one_that_does(held):
    holder = MonitorModel(str(held)).poll().holder
    assert holder["process"] == os.getpid() and holder["host"] == socket.gethostname()
    lock = json.loads((held / "lock.json").read_text())
    gone = next(n for n in range(2**15, 2**22) if not psutil.pid_exists(n))
    (held / "lock.json").write_text(json.dumps({**lock, "process": gone}))
    snapshot = MonitorModel(str(held)).poll()
    assert snapshot.holder is None and "nobody works on it" in snapshot.text


def test_a_stop_is_asked_for_in_the_run_and_heard_by_who_works_on_it(held):
    stopping.check(str(held))
    assert MonitorModel(str(held)).stop()["process"] == os.getpid()
    with pytest.raises(StoppedError, match=f"stopped by process {os.getpid()}.*resume"):
        stopping.check(str(held))
    stopping.forget_request(str(held))
    stopping.check(str(held))


def test_a_run_that_nobody_works_on_cannot_be_stopped(run_copy):
    with pytest.raises(OutputError, match="is not running"):
        MonitorModel(str(run_copy)).stop()
    assert not (run_copy / "stop.json").exists()


def test_a_place_without_a_run_is_named(tmp_path):
    with pytest.raises(InputError, match="is not a bigreg run"):
        MonitorModel(str(tmp_path / "nothing.zarr"))


def test_a_stage_may_be_chosen(finished):
    model = MonitorModel(str(finished))
    model.shown = "stages/warped"
    assert model.poll().stage == "stages/warped"


def test_polling_reads_little(finished):
    begin = time.process_time()
    MonitorModel(str(finished)).poll()
    assert time.process_time() - begin < 5
