"""The Monitor panel, used as a person does."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import bigreg

pytest.importorskip("napari", reason="needs bigreg[napari]")
pytest.importorskip("pytestqt", reason="needs bigreg[test]")
from napari_bigreg.monitor import panel as monitor_panel
from napari_bigreg.shared.panel import layer_of
from qtpy.QtWidgets import QLabel


@pytest.fixture
def watch(make_napari_viewer, dock, until):
    """A panel in a viewer that watches a run."""
    panels = []

    def make(url, ready: bool = True):
        viewer = make_napari_viewer()
        panel = dock(viewer, "Monitor")
        panels.append(panel)
        panel.choice.box.lineEdit().setText(str(url))
        panel.choice.box.lineEdit().editingFinished.emit()
        if ready:
            until(lambda: panel.snapshot is not None)
        return viewer, panel

    yield make
    for panel in panels:
        panel.close()
        until(lambda panel=panel: not panel._work._jobs)


def click(viewer, world) -> None:
    """Press and release at a place, as the canvas tells its viewer."""
    event = SimpleNamespace(type="mouse_press", pos=np.array([50, 60]), position=tuple(world), modifiers=())
    callback = viewer.mouse_drag_callbacks[-1](viewer, event)
    next(callback)
    event.type = "mouse_release"
    with pytest.raises(StopIteration):
        next(callback)


def test_the_verdict_of_a_finished_run_is_shown_with_its_reasons(watch, until, run_copy):
    run = bigreg.open_run(str(run_copy))
    _, panel = watch(run_copy)
    assert run.verdict.headline in panel.verdict.text() and not panel.verdict.isHidden()
    kept = run.verdict.to_json() | {"level": "look", "headline": "Check before use", "reasons": ["a reason <1>"]}
    run.store.update(verdict=kept)
    panel.refresh()
    until(lambda: "Check before use" in panel.verdict.text())
    assert "a reason &lt;1&gt;" in panel.verdict.text()


def test_a_typed_run_is_shown_and_a_click_on_a_block_tells_about_it(watch, until, finished):
    viewer, panel = watch(finished)
    assert panel.bar.value() == panel.bar.maximum() and "finished" in panel.text.text()
    layer = layer_of(viewer, str(finished), "blocks")
    assert layer is not None and layer.visible and layer.data.shape == panel.snapshot.statuses.shape
    assert not any(button.isEnabled() for button in (panel.stop, panel.resume, panel.next_failed))
    centre = panel.model.centre_of((0, 1, 1), panel.snapshot)
    viewer.dims.set_point(range(3), centre)
    click(viewer, centre)
    until(lambda: panel.title.property("status") is not None)
    assert "(0, 1, 1)" in panel.title.text() and "done" in panel.title.text()
    assert "similarity after" in panel.figures.text() and panel.error.isHidden()
    before = panel.picture.pixmap().toImage()
    panel.plane.setValue(0)
    assert panel.picture.pixmap().toImage() != before
    assert layer_of(viewer, str(finished), "block") is not None


def test_a_drag_is_no_click(watch, finished):
    viewer, panel = watch(finished)
    event = SimpleNamespace(type="mouse_press", pos=np.array([50, 60]), position=(20.0, 30.0, 30.0))
    callback = viewer.mouse_drag_callbacks[-1](viewer, event)
    next(callback)
    event.type, event.pos = "mouse_move", np.array([90, 60])
    next(callback)
    event.type = "mouse_release"
    assert next(callback, None) is None and panel.block is None


def test_a_stage_is_chosen_from_the_list(watch, until, finished):
    viewer, panel = watch(finished)
    until(lambda: panel.stage.count() > 3)
    panel.stage.setCurrentIndex(panel.stage.findData("stages/warped"))
    until(lambda: panel.snapshot.stage == "stages/warped")
    layer = layer_of(viewer, str(finished), "blocks")
    assert layer.metadata["bigreg"]["stage"] == "stages/warped"
    assert layer.data.shape == bigreg.open_run(str(finished)).block_status("stages/warped").shape


def test_failed_blocks_are_gone_through_with_their_errors(watch, until, qtbot, failed_run):
    from qtpy.QtCore import Qt

    _, panel = watch(failed_run)
    assert panel.resume.isEnabled() and panel.next_failed.isEnabled()
    seen = []
    for _ in range(2):
        qtbot.mouseClick(panel.next_failed, Qt.MouseButton.LeftButton)
        until(lambda: panel.title.property("status") is not None)
        seen.append((panel.block[1], panel.error.toPlainText()))
    assert {index for index, _ in seen} == {(0, 0, 1), (1, 1, 1)}
    assert "broken on purpose" in dict(seen)[1, 1, 1] and "Traceback" in dict(seen)[1, 1, 1]
    panel.next_failed.click()
    assert panel.block[1] == seen[0][0]


def test_what_is_no_run_is_said_in_the_panel(watch, tmp_path):
    _, panel = watch(tmp_path / "nothing.zarr", ready=False)
    assert "is not a bigreg run" in panel.text.text() and not panel.timer.isActive()


def test_a_resume_that_fails_says_what_it_said(watch, until, failed_run, monkeypatch):
    script = "import sys; print('error: the disk is full'); sys.exit(5)"
    monkeypatch.setattr(monitor_panel, "start_process", lambda arguments, log: _start(script, arguments, log))
    _, panel = watch(failed_run)
    panel.resume.click()
    until(lambda: panel.process.poll() is not None)
    panel.refresh()
    until(lambda: "the disk is full" in panel.text.text())


def _start(script, arguments, log):
    import subprocess

    assert arguments[0] == "resume"
    with open(log, "ab") as file:
        return subprocess.Popen([sys.executable, "-c", script], stdout=file)


def test_closing_the_panel_ends_its_work(watch, until, finished):
    viewer, panel = watch(finished)
    count = len(viewer.mouse_drag_callbacks)
    panel.close()
    assert not panel.timer.isActive() and len(viewer.mouse_drag_callbacks) == count - 1
    until(lambda: not panel._work._jobs)


def test_a_doubtful_start_is_told_shown_and_accepted(watch, until, run_copy):
    store = bigreg.open_run(str(run_copy)).store
    config = store.attributes["config"]
    config["affine"]["least_confidence"] = 1.0  # more than any start has
    store.update(config=config, state="incomplete")
    _, panel = watch(run_copy)
    assert "the start: confidence" in panel.start.text() and "starts.png" in panel.start.text()
    assert panel.accept.isVisibleTo(panel) and not panel.resume.isEnabled()
    until(lambda: panel.three.isVisibleTo(panel))  # the best three, where they are chosen from
    assert panel.three.pixmap().width() > 300
    panel.starts.click()
    until(lambda: panel.starts_window is not None)
    assert panel.starts_window.findChildren(QLabel)[0].pixmap().width() > 300
    panel.starts_window.close()
    panel.accept.setValue(1)
    assert panel.resume.isEnabled()


def test_a_start_that_is_sure_is_told_and_asks_for_nothing(watch, finished):
    _, panel = watch(finished)
    assert "the start: confidence" in panel.start.text()
    assert panel.starts.isVisibleTo(panel) and not panel.accept.isVisibleTo(panel)
    assert not panel.three.isVisibleTo(panel)
