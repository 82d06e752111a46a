"""The Launch panel, used as a person does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import bigreg
from bigreg.pipeline.store.store import RunStore

pytest.importorskip("napari", reason="needs bigreg[napari]")
pytest.importorskip("pytestqt", reason="needs bigreg[test]")
from napari_bigreg.shared.linked_views import centre_on
from napari_bigreg.shared.registration import Choice, Launch
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QFileDialog

QUICK = ("affine.voxels=64", "affine.rotations_deg=0", "ladder.finest=2", "ladder.iterations=[12]", "blocks.core=32",
         "blocks.halo=8", "output.chunk=16", "output.shard=32")  # fmt: skip


@pytest.fixture(scope="module")
def images(pair, tmp_path_factory):
    """Paths of a small pair with a known map."""
    folder = tmp_path_factory.mktemp("launch")
    for name in ("fixed", "moving"):
        bigreg.convert(getattr(pair, name), str(folder / f"{name}.ome.zarr"), spacing=pair.spacing)
    return {name: str(folder / f"{name}.ome.zarr") for name in ("fixed", "moving")}


@pytest.fixture
def launch(images, tmp_path):
    return Launch(
        Choice(images["fixed"]), Choice(images["moving"]), str(tmp_path / "run.zarr"), "demo", QUICK, workers=1
    )


def press(qtbot, button):
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


@pytest.fixture
def panel(launch, make_napari_viewer, dock, qtbot, until):
    """The panel with the form filled in, as a person types."""
    viewer = make_napari_viewer()
    panel = dock(viewer, "Launch")
    form = panel.form
    for side in ("fixed", "moving"):
        qtbot.keyClicks(form.images[side].path, getattr(launch, side).path)
    qtbot.keyClicks(form.run, launch.run)
    form.config.setCurrentText(launch.config)
    for item in launch.overrides:
        press(qtbot, form.overrides.add)
        _, key, value = form.overrides.rows[-1]
        key.setCurrentText(item.partition("=")[0])
        qtbot.keyClicks(value, item.partition("=")[2])
    form.workers.setValue(1)
    assert form.launch == launch
    yield panel
    panel.close()
    until(lambda: not panel._work._jobs)


def test_the_plan_is_shown_and_mistakes_stand_at_their_field(panel, qtbot, until):
    press(qtbot, panel.plan)
    assert not panel.plan.isEnabled()
    until(panel.plan.isEnabled)
    plan = panel.rows.text().replace("&nbsp;", " ")
    assert "memory per worker" in plan and "ready to start" in panel.message.text()
    assert "4 x 2.6 x 2.6 µm" in panel.level.itemText(0)
    form = panel.form
    value = form.overrides.rows[4][2]
    value.clear()
    assert panel.rows.text() == ""
    qtbot.keyClicks(value, "none")
    press(qtbot, panel.plan)
    until(lambda: form.overrides.error.text() != "")
    assert "blocks.core" in form.overrides.error.text() and "ff7b6b" in value.styleSheet()
    press(qtbot, form.overrides.rows[4][0].layout().itemAt(2).widget())
    assert len(form.launch.overrides) == len(QUICK) - 1
    until(panel.plan.isEnabled)
    form.images["fixed"].path.setText("nowhere.tif")
    assert form.overrides.error.text() == ""
    press(qtbot, panel.plan)
    until(lambda: "nowhere.tif" in form.images["fixed"].error.text())


def test_paths_can_be_looked_for(panel, qtbot, monkeypatch):
    image = panel.form.images["fixed"]
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: "/data/a.zarr")
    press(qtbot, image.browse)
    assert image.path.text() == "/data/a.zarr"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: "")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: ("/data/b.tif", ""))
    press(qtbot, image.browse)
    assert image.path.text() == "/data/b.tif"
    image.channel.setValue(1)
    qtbot.keyClicks(image.texts["spacing"], "2 1 1")
    qtbot.keyClicks(image.texts["orientation"], "psl")
    assert panel.form.launch.fixed == Choice("/data/b.tif", channel=1, spacing="2 1 1", orientation="psl")
    before = panel.form.launch
    panel.form.fill(Launch())
    assert panel.form.launch == Launch()
    panel.form.fill(before)
    assert panel.form.launch == before
    press(qtbot, panel.copy)
    assert QApplication.clipboard().text().startswith("bigreg register /data/b.tif")


def test_a_preview_is_shown_before_and_after_and_again_after_a_change(panel, qtbot, until):
    panel.level.setCurrentIndex(0)
    press(qtbot, panel.try_it)
    assert panel.cancel.isEnabled()
    until(lambda: "preview: after" in panel.viewer.layers, 500)
    layers = panel.viewer.layers
    assert layers["preview: after"].visible and not layers["preview: before"].visible
    assert "NCC, deformation" in panel.figures.text()
    qtbot.mouseClick(panel.after, Qt.MouseButton.LeftButton, pos=QPoint(8, panel.after.height() // 2))
    assert not layers["preview: after"].visible and layers["preview: before"].visible
    until(lambda: panel._previewing is None, 500)
    layer, old = layers["preview: after"], layers["preview: after"].data
    layer.contrast_limits = (7.0, 77.0)
    panel.live.setChecked(True)
    panel.form.overrides.rows[3][2].setText("[3]")
    until(lambda: layers["preview: after"].data is not old)
    until(lambda: panel._previewing is None)
    assert layers["preview: after"] == layer and tuple(layer.contrast_limits) == (7.0, 77.0)
    assert not np.array_equal(layer.data, old) and not layer.visible
    panel.live.setChecked(False)
    centre_on(panel.viewer, np.array((60.0, 900.0, 60.0)))
    press(qtbot, panel.try_it)
    until(lambda: "outside the fixed image" in panel.message.text())


def test_the_box_of_the_stiffness_fills_in_the_value_of_the_engine_that_has_one(panel, until):
    box, form = panel.stiffness, panel.form
    until(lambda: box.isEnabled())
    before, rows = box.value(), len(form.overrides.rows)
    box.setValue(2 * before)
    assert form.launch.overrides[-1] == f"engine_options.optimise.regularisation={2 * before:g}"
    box.setValue(4 * before)
    assert len(form.overrides.rows) == rows + 1  # the same row again
    assert form.launch.overrides[-1].endswith(f"={4 * before:g}")
    form.overrides.put("engine_options.optimise.regularisation", f"{before:g}")
    until(lambda: box.value() == before)
    form.overrides.fill(("engine=discrete",))
    until(lambda: not box.isEnabled())


def test_another_block_is_shown_in_the_same_layers(panel, qtbot, until):
    panel.level.setCurrentIndex(0)
    press(qtbot, panel.try_it)
    until(lambda: panel._previewing is None, 500)
    layer = panel.viewer.layers["preview: fixed"]
    before, limits = np.asarray(layer.extent.world), tuple(layer.contrast_limits)
    layer.contrast_limits = (7.0, 77.0)
    centre_on(panel.viewer, before[1])
    press(qtbot, panel.try_it)
    until(lambda: panel._previewing is None)
    assert panel.viewer.layers["preview: fixed"] == layer and len(panel.viewer.layers) == 3
    after = np.asarray(layer.extent.world)
    assert (after[0] > before[0]).any() and tuple(layer.contrast_limits) not in ((7.0, 77.0), limits)
    whole = bigreg.open_volume(panel.form.launch.fixed.path)
    first = np.rint(whole.grid().world_to_index(np.asarray(layer.data_to_world((0, 0, 0)))[None])[0]).astype(int)
    np.testing.assert_allclose(layer.data, whole.read(first, first + layer.data.shape), atol=1.0)


def test_what_a_preview_needs_is_loaded_while_the_form_is_filled_in_and_goes_with_the_panel(
    make_napari_viewer, dock, until, monkeypatch, tmp_path
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    panel = dock(make_napari_viewer(), "Launch")
    assert panel._warming.running and not panel.bar.isVisible()
    until(lambda: not panel._warming.running, 500)
    assert panel.message.text() == "" and not panel.cancel.isEnabled()
    child = panel.previewer.child
    assert child.poll() is None and list(tmp_path.glob("bigreg-preview-*"))
    panel.close()
    until(lambda: child.poll() is not None)
    assert not list(tmp_path.glob("bigreg-preview-*"))


def test_a_preview_ends_with_its_window_where_python_goes_on():
    """As in a notebook, which closes the viewer and not its process."""
    code = """
import time
import napari
from napari.qt import get_qapp
from napari_bigreg.launch.panel import LaunchPanel
from qtpy.QtWidgets import QApplication

def until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        QApplication.processEvents()
        QApplication.sendPostedEvents(None, 52)  # what is to be deleted, which an event loop would do
        time.sleep(0.01)

viewer = napari.Viewer()
panel = LaunchPanel(viewer)
viewer.window.add_dock_widget(panel)
previewer = panel.previewer
until(lambda: previewer.child is not None)
viewer.close()
until(lambda: previewer.child.poll() is not None)
print("ended")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip().endswith("ended"), done.stderr


def test_an_error_of_a_preview_shows_its_text(panel, qtbot, until):
    panel.form.images["moving"].path.setText("nowhere.ome.zarr")
    press(qtbot, panel.try_it)
    until(lambda: "nowhere.ome.zarr" in panel.form.images["moving"].error.text())
    assert "moving" in panel.message.text()
    until(lambda: not panel.cancel.isEnabled())


def test_a_preview_is_cancelled(panel, qtbot, until):
    press(qtbot, panel.try_it)
    press(qtbot, panel.cancel)
    assert panel.figures.text() == "cancelled"
    until(lambda: panel._previewing is None, 500)
    assert not [layer for layer in panel.viewer.layers if layer.name.startswith("preview")]


def test_the_run_is_a_process_of_its_own_that_the_monitor_watches(panel, qtbot, until, launch):
    press(qtbot, panel.go)
    until(lambda: panel.started is not None)
    process = panel.started.process
    try:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        until(lambda: panel.monitor is not None)
        assert bigreg.is_run(launch.run) and panel.monitor.choice.url == launch.run
        assert panel.started.log.exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        panel.monitor.close()


def test_a_process_that_ends_at_once_says_why(panel, qtbot, until, launch):
    RunStore(launch.run).create({"state": "incomplete", "updated": 0.0, "config": {}, "images": {}})
    press(qtbot, panel.go)
    until(lambda: "ended with status" in panel.message.text() or panel.monitor is not None)
    assert "ended with status" in panel.message.text() and "error" in panel.message.text().lower()
