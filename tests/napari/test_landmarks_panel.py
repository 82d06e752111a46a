"""The Landmarks panel, used as a person does."""

from __future__ import annotations

import math

import numpy as np
import pytest

import bigreg
from bigreg.transforms.landmarks import read_landmarks

pytest.importorskip("napari", reason="needs bigreg[napari]")
pytest.importorskip("pytestqt", reason="needs bigreg[test]")
from napari_bigreg.landmarks.ellipses import PIECES
from napari_bigreg.landmarks.panel import LandmarksPanel
from napari_bigreg.landmarks.table import AFTER, BEFORE, NAME, USE
from napari_bigreg.shared.linked_views import centre_of, centre_on
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QFileDialog


@pytest.fixture
def run(run_copy):
    """A run without landmarks, to be changed."""
    return bigreg.open_run(str(run_copy))


@pytest.fixture
def cells(pair):
    """(fixed, moving) of some cells well inside."""
    inside = (np.abs(pair.cells_fixed / (np.array(pair.fixed.shape) * pair.spacing) - 0.5) < 0.25).all(1)
    return pair.cells_fixed[inside][:5], pair.cells_moving[inside][:5]


@pytest.fixture
def opened(run, make_napari_viewer, dock, qtbot, until):
    """The panel with the run that a person has typed in."""
    panels = []

    def open_(**window):
        viewer = make_napari_viewer(**window)
        panel = dock(viewer, "Landmarks")
        qtbot.keyClicks(panel.choice.box.lineEdit(), run.url)
        qtbot.keyClick(panel.choice.box.lineEdit(), Qt.Key.Key_Return)
        until(lambda: panel.model is not None)
        panels.append(panel)
        return panel

    yield open_
    for panel in panels:
        until(lambda panel=panel: not panel._work._jobs)
        panel.close()


@pytest.fixture
def panel(opened):
    return opened()


def press(qtbot, button):
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def near(point, other):
    """In the plane, and on the nearest slice: planes lie 4 um apart."""
    return bool((np.abs(point - other) <= (2.01, 0.5, 0.5)).all())


def complete(panel, cells):
    for fixed, moving in zip(*cells, strict=True):
        panel.model.place(panel.model.add("fixed", fixed), "moving", moving)


def test_both_images_are_shown_and_the_views_follow_each_other(panel, qtbot, until, cells):
    assert "fixed" in [layer.name for layer in panel.viewer.layers]
    assert "moving" in [layer.name for layer in panel.views.other.layers]
    viewer, other, run = panel.viewer, panel.views.other, panel.model.run
    grid = run.pyramid("moving")[0].grid
    np.testing.assert_allclose(other.layers["moving"].data_to_world((7, 8, 9)), grid.index_to_world([[7, 8, 9]])[0])
    for point in cells[0][:2]:
        centre_on(viewer, point)
        viewer.camera.zoom = 4.5
        until(lambda: near(centre_of(other), run.map_points(centre_of(viewer)[None])[0]))
        assert near(centre_of(viewer), point)
        assert other.camera.zoom == 4.5
    centre_on(other, cells[1][2])
    there = run.map_points(centre_of(other)[None], "moving_to_fixed")[0]
    until(lambda: near(centre_of(viewer), there))
    viewer.dims.order = (1, 0, 2)
    until(lambda: tuple(other.dims.order) == (1, 0, 2))
    qtbot.mouseClick(panel.link, Qt.MouseButton.LeftButton, pos=QPoint(8, panel.link.height() // 2))
    assert not panel.link.isChecked()
    before = centre_of(other)
    centre_on(viewer, cells[0][3])
    qtbot.wait(300)
    np.testing.assert_allclose(centre_of(other), before)


def test_a_click_in_the_view_places_a_point_and_the_map_proposes_the_other(opened, qtbot, until, cells):
    panel = opened(show=True)
    centre_on(panel.viewer, cells[0][0])
    press(qtbot, panel.add)
    assert panel.layers.layers["fixed"].mode == "add" and panel.layers.layers["moving"].mode == "add"
    canvas = panel.viewer.window._qt_viewer.canvas.native
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=QPoint(canvas.width() // 2, canvas.height() // 2))
    until(lambda: len(panel.model.pairs) == 1 and panel.model.pairs[0].proposal is not None)
    pair = panel.model.pairs[0]
    assert (np.abs(pair.fixed - cells[0][0]) < 2.1).all()
    until(lambda: panel.table.item(0, AFTER).text() == "proposed")
    other, unit = panel.layers.layers["moving"], panel.layers.units["moving"]
    np.testing.assert_array_equal(other.data_to_world(other.data[0]), pair.proposal)
    # What is dragged is set.
    other.selected_data = {0}
    other._move([0], pair.proposal / unit)  # where the mouse went down
    other._move([0], (pair.proposal + np.array((0, 3.0, 2.0))) / unit)
    until(lambda: pair.lacks is None)
    until(lambda: panel.table.item(0, AFTER).text() not in ("", "proposed", "-"))
    assert "1 pairs" in panel.figures.text()
    # The moving view takes points as well.
    other.add(cells[1][1] / unit)
    until(lambda: len(panel.model.pairs) == 2 and panel.model.pairs[1].proposal is not None)
    press(qtbot, panel.add)
    assert panel.layers.layers["fixed"].mode == "select"
    press(qtbot, panel.accept)
    assert panel.model.pairs[1].lacks is None


def drawn(layer):
    """Corners in the world (N, 2, 3): where the pieces of a layer of lines begin and end."""
    starts = np.array([layer.data_to_world(p) for p in layer.data[:, 0]])
    return np.stack([starts, starts + layer.data[:, 1] * np.asarray(layer.scale)], axis=1)


def test_each_landmark_has_an_ellipse_in_the_shown_plane_of_both_views(panel, qtbot, until, cells):
    complete(panel, (cells[0][:2], cells[1][:2]))
    mine = panel.sure.layers
    until(lambda: set(mine) == {"fixed", "moving"} and len(mine["moving"].data) == 2 * PIECES)
    run = panel.model.run
    wide = math.sqrt(-2 * math.log(0.05)) * run.sigma_at(run.map_points(cells[1][:1], "moving_to_fixed"))[0]
    for order, across in (((0, 1, 2), 0), ((1, 0, 2), 1), ((2, 0, 1), 2)):
        panel.viewer.dims.order = order
        points = drawn(mine["fixed"])[:PIECES].reshape(-1, 3)
        np.testing.assert_allclose(points.mean(0), run.map_points(cells[1][:1], "moving_to_fixed")[0], atol=1e-3)
        size = np.where(np.arange(3) == across, 0, wide)
        np.testing.assert_allclose(np.ptp(points, axis=0) / 2, size, rtol=0.01, atol=1e-4)
    until(lambda: tuple(panel.views.other.dims.order) == (2, 0, 1))
    np.testing.assert_allclose(
        drawn(mine["moving"])[:PIECES].mean((0, 1))[2], run.map_points(cells[0][:1])[0][2], atol=1e-3
    )
    # On its slice an ellipse is seen, far from it not.
    panel.link.setChecked(False)
    panel.viewer.dims.order = (0, 1, 2)
    centre_on(panel.viewer, cells[0][0])
    until(lambda: len(mine["fixed"]._view_data) >= PIECES)
    panel.viewer.dims.set_point(0, cells[0][:, 0].max() + 40)
    until(lambda: len(mine["fixed"]._view_data) == 0)
    panel.viewer.dims.ndisplay = 3
    assert len(mine["fixed"].data) == 6 * PIECES
    panel.viewer.dims.ndisplay = 2
    qtbot.mouseClick(panel.ellipses, Qt.MouseButton.LeftButton, pos=QPoint(8, panel.ellipses.height() // 2))
    assert not mine["fixed"].visible and not mine["moving"].visible
    panel.model.remove(list(panel.model.pairs))
    until(lambda: len(mine["fixed"].data) == 0)


def test_the_table_names_leaves_out_removes_and_leads_to_pairs(panel, qtbot, until, cells):
    complete(panel, cells)
    until(lambda: panel.table.item(4, BEFORE).text() not in ("", "-"))
    panel.table.item(1, NAME).setText("vessel fork")
    assert panel.model.pairs[1].name == "vessel fork"
    panel.table.item(2, NAME).setText("vessel fork")
    assert "another one is" in panel.message.text() and panel.table.item(2, NAME).text() == "Pt-2"
    panel.table.item(0, USE).setCheckState(Qt.CheckState.Unchecked)
    until(lambda: "(4 pairs)" in panel.figures.text())
    panel.table.cellDoubleClicked.emit(3, NAME)
    assert near(centre_of(panel.viewer), cells[0][3]) and near(centre_of(panel.views.other), cells[1][3])
    panel.table.selectRow(2)
    assert panel.layers.layers["fixed"].selected_data == {2} and [p.name for p in panel.chosen] == ["Pt-2"]
    press(qtbot, panel.remove)
    assert panel.table.rowCount() == 4 and len(panel.layers.layers["moving"].data) == 4
    panel.layers.layers["fixed"].selected_data = {0}
    assert [p.name for p in panel.chosen] == ["Pt-0"]
    panel.layers.layers["fixed"].remove_selected()
    assert [p.name for p in panel.model.pairs] == ["vessel fork", "Pt-3", "Pt-4"]


def test_snap_moves_the_chosen_points_and_says_how_far(panel, qtbot, until, cells):
    complete(panel, (cells[0][:2], cells[1][:2] + np.array((3.0, -5.0, 4.0))))
    press(qtbot, panel.snap)
    assert "choose the rows" in panel.message.text()
    panel.table.selectAll()
    panel.within.setValue(14)
    press(qtbot, panel.snap)
    until(lambda: "correlation" in panel.message.text() and panel.snap.isEnabled())
    assert all(np.linalg.norm(p.moving - m) < 4 for p, m in zip(panel.model.pairs, cells[1], strict=False))
    panel.within.setValue(5000)
    press(qtbot, panel.snap)
    until(lambda: "too wide" in panel.message.text())


def test_files_and_the_run_keep_the_pairs(panel, qtbot, until, cells, tmp_path, monkeypatch):
    complete(panel, cells)
    file = str(tmp_path / "marks.csv")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (file, ""))
    press(qtbot, panel.export)
    assert read_landmarks(file).names == ("Pt-0", "Pt-1", "Pt-2", "Pt-3", "Pt-4")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (file, ""))
    press(qtbot, panel.load)
    assert panel.table.rowCount() == 10 and panel.save.text().endswith("*")
    press(qtbot, panel.save)
    until(lambda: "kept in" in panel.message.text())
    assert len(panel.model.run.landmarks()) == 10 and not panel.save.text().endswith("*")
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (str(tmp_path / "no.csv"), ""))
    press(qtbot, panel.load)
    assert "holds no pairs" in panel.message.text()


def test_what_is_no_run_is_said_in_the_panel(make_napari_viewer, qtbot, until, tmp_path):
    panel = LandmarksPanel(make_napari_viewer())
    qtbot.addWidget(panel)
    assert not panel.add.isEnabled()
    qtbot.keyClicks(panel.choice.box.lineEdit(), str(tmp_path))
    qtbot.keyClick(panel.choice.box.lineEdit(), Qt.Key.Key_Return)
    until(lambda: "is not a bigreg run" in panel.message.text())


def test_the_pairs_lead_to_another_run(panel, qtbot, until, cells):
    complete(panel, cells)
    press(qtbot, panel.steer)
    until(lambda: panel.launch is not None)
    run, launch = panel.model.run, panel.launch.form.launch
    assert launch.overrides == (f"landmarks.path={run.store.path('landmarks', 'pairs.csv')}",)
    assert launch.fixed.open("fixed").identity()["shape"] == [31, 46, 55]
    assert bigreg.load_config(launch.config).result_part() == run.config.result_part()
    assert launch.run.endswith("run-steered.zarr") and len(run.landmarks()) == 5
    panel.launch.close()
