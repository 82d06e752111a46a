"""Landmarks: the model without Qt, then the panel as a person uses it."""

from __future__ import annotations

import numpy as np
import pytest
from distributed import Client, LocalCluster
from napari_bigreg.landmarks_model import LandmarksModel
from napari_bigreg.landmarks_panel import AFTER, BEFORE, NAME, USE, LandmarksPanel
from napari_bigreg.linked_views import centre_of, centre_on
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QFileDialog

import bigreg
from bigreg.errors import InputError
from bigreg.phantom import make_pair
from bigreg.transforms.landmarks import landmarks, read_landmarks

SMALL = ["affine.voxels=32", "affine.rotations_deg=0", "ladder.finest=1", "ladder.coarsest=2", "ladder.iterations=[12]",
         "blocks.core=64", "output.chunk=16", "output.shard=32"]  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    return make_pair((32, 44, 48), (4.0, 2.6, 2.6), seed=3, max_displacement_um=6.0)


@pytest.fixture(scope="module")
def finished(pair, tmp_path_factory):
    """A finished run of a pair with a known map."""
    out = str(tmp_path_factory.mktemp("landmarks") / "run.zarr")
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster, Client(
        cluster, set_as_default=False
    ) as client:  # fmt: skip
        bigreg.register(
            (pair.fixed, pair.spacing), (pair.moving, pair.spacing), out=out, client=client,
            config=bigreg.load_config(preset="demo", overrides=SMALL),
        )  # fmt: skip
    return out


@pytest.fixture
def run(finished):
    """The run without landmarks."""
    run = bigreg.open_run(finished)
    run.save_landmarks(landmarks(np.empty((0, 3)), np.empty((0, 3))))
    return run


@pytest.fixture
def cells(pair):
    """(fixed, moving) of some cells well inside."""
    inside = (np.abs(pair.cells_fixed / (np.array(pair.fixed.shape) * pair.spacing) - 0.5) < 0.25).all(1)
    return pair.cells_fixed[inside][:5], pair.cells_moving[inside][:5]


# --------------------------------------------------------------------------------------------------------- the model


def test_the_errors_are_the_distances_after_the_affine_and_after_the_whole_map(run, cells):
    model = LandmarksModel(run)
    for number, (fixed, moving) in enumerate(zip(*cells, strict=True)):
        model.place(model.add("fixed", fixed, f"cell {number}"), "moving", moving)
    model.activate(model.pairs[0], False)
    errors = model.errors()
    np.testing.assert_allclose(errors.mapped, np.linalg.norm(run.map_points(cells[0]) - cells[1], axis=1))
    assert errors.after.points == len(cells[0]) - 1
    assert errors.after.mean == pytest.approx(errors.mapped[1:].mean())
    assert errors.before.median == pytest.approx(np.median(errors.affine[1:]))
    assert errors.after.mean < errors.before.mean
    assert f"mean {errors.after.mean:.2f}" in errors.text()


def test_a_proposal_counts_for_nothing_until_it_is_taken(run, cells):
    model = LandmarksModel(run)
    pair = model.add("fixed", cells[0][0])
    assert (pair.name, pair.lacks) == ("Pt-0", "moving")
    model.propose(pair, model.partner("fixed", pair.fixed))
    np.testing.assert_allclose(pair.shown("moving"), run.map_points(cells[0][:1])[0])
    assert model.errors().after is None and not model.landmarks.used.any()
    model.accept([pair])
    assert pair.lacks is None and model.errors().after.mean == pytest.approx(0)
    other = model.add("moving", cells[1][1])
    np.testing.assert_allclose(
        model.partner("moving", other.moving), run.map_points(cells[1][1:2], "moving_to_fixed")[0]
    )


def test_snapping_brings_a_displaced_cell_back(run, cells, pair):
    model = LandmarksModel(run)
    spacing = np.array(pair.spacing)
    mark = model.add("fixed", cells[0][0])
    model.place(mark, "moving", cells[1][0] + (4.0, -6.0, 5.0))
    found = model.snapped(mark, within=15)
    assert (np.abs(found.point - cells[1][0]) / spacing).max() < 0.6
    with pytest.raises(InputError, match="no fixed point"):
        model.snapped(model.add("moving", cells[1][1]), within=15)


def test_names_are_unique_and_pairs_survive_the_files_and_the_run(run, cells, tmp_path):
    model = LandmarksModel(run)
    changes = []
    model.changed.connect(lambda: changes.append(1))
    for fixed, moving in zip(*cells, strict=True):
        model.place(model.add("fixed", fixed), "moving", moving)
    model.rename(model.pairs[1], "soma, left")
    with pytest.raises(InputError, match="another one is"):
        model.rename(model.pairs[2], "soma, left")
    model.remove([model.pairs[0]])
    model.add("moving", cells[1][0], "half")
    assert changes and not model.saved
    model.export(str(tmp_path / "out.csv"))
    assert read_landmarks(tmp_path / "out.csv").names == ("soma, left", "Pt-2", "Pt-3", "Pt-4", "half")
    model.save()
    assert model.saved
    again = LandmarksModel(run)
    assert [p.name for p in again.pairs] == [p.name for p in model.pairs]
    np.testing.assert_allclose(again.pairs[0].fixed, cells[0][1], atol=1e-6)
    assert again.pairs[-1].lacks == "fixed"
    again.load(str(tmp_path / "out.csv"))
    assert len(again.pairs) == 10 and again.pairs[5].name == "soma, left (2)"


def test_a_run_without_fields_goes_by_its_affine(run, finished, cells, tmp_path):
    import shutil

    out = shutil.copytree(finished, tmp_path / "run.zarr")
    shutil.rmtree(out / "stages" / "check")
    model = LandmarksModel(str(out))
    assert "no fields yet" in model.missing
    pair = model.add("fixed", cells[0][0])
    np.testing.assert_allclose(
        model.partner("fixed", pair.fixed), model.affine[:3, :3] @ pair.fixed + model.affine[:3, 3]
    )
    model.place(pair, "moving", cells[1][0])
    assert model.errors().after is None and np.isnan(model.errors().mapped).all()
    assert "has none yet" in model.errors().text()


# --------------------------------------------------------------------------------------------------------- the panel


@pytest.fixture
def panel(run, make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    panel = LandmarksPanel(viewer)
    viewer.window.add_dock_widget(panel, name="Landmarks")
    qtbot.keyClicks(panel.choice.box.lineEdit(), run.url)
    qtbot.keyClick(panel.choice.box.lineEdit(), Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: panel.model is not None, timeout=300000)
    yield panel
    qtbot.waitUntil(lambda: not panel._work._jobs, timeout=300000)
    panel.close()


def press(qtbot, button):
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def wait(qtbot, condition):
    qtbot.waitUntil(condition, timeout=300000)


def complete(panel, cells):
    for fixed, moving in zip(*cells, strict=True):
        panel.model.place(panel.model.add("fixed", fixed), "moving", moving)


def test_both_images_are_shown_and_the_views_follow_each_other(panel, qtbot, cells):
    assert "fixed" in [layer.name for layer in panel.viewer.layers]
    assert "moving" in [layer.name for layer in panel.views.other.layers]
    viewer, other, run = panel.viewer, panel.views.other, panel.model.run
    for point in cells[0][:2]:
        centre_on(viewer, point)
        viewer.camera.zoom = 4.5
        wait(qtbot, lambda point=point: np.allclose(centre_of(other), run.map_points(point[None])[0], atol=0.5))
        assert other.camera.zoom == 4.5
    centre_on(other, cells[1][2])
    there = run.map_points(cells[1][2:3], "moving_to_fixed")[0]
    wait(qtbot, lambda: np.allclose(centre_of(viewer), there, atol=0.5))
    viewer.dims.order = (1, 0, 2)
    wait(qtbot, lambda: tuple(other.dims.order) == (1, 0, 2))
    press(qtbot, panel.link)
    before = centre_of(other)
    centre_on(viewer, cells[0][3])
    qtbot.wait(300)
    np.testing.assert_allclose(centre_of(other), before)


def test_a_click_in_the_view_places_a_point_and_the_map_proposes_the_other(panel, qtbot, cells):
    centre_on(panel.viewer, cells[0][0])
    press(qtbot, panel.add)
    assert panel.layers.layers["fixed"].mode == "add" and panel.layers.layers["moving"].mode == "add"
    canvas = panel.viewer.window._qt_viewer.canvas.native
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=QPoint(canvas.width() // 2, canvas.height() // 2))
    wait(qtbot, lambda: len(panel.model.pairs) == 1 and panel.model.pairs[0].proposal is not None)
    pair = panel.model.pairs[0]
    np.testing.assert_allclose(pair.fixed, cells[0][0], atol=2.0)
    wait(qtbot, lambda: panel.table.item(0, AFTER).text() == "proposed")
    np.testing.assert_allclose(panel.layers.layers["moving"].data[0], pair.proposal, rtol=1e-5)
    # What is dragged is set.
    other = panel.layers.layers["moving"]
    other.selected_data = {0}
    other._move([0], pair.proposal + np.array((0, 3.0, 2.0)))
    wait(qtbot, lambda: pair.lacks is None)
    wait(qtbot, lambda: panel.table.item(0, AFTER).text() not in ("", "proposed", "-"))
    assert "1 pairs" in panel.figures.text()
    # The moving view takes points as well.
    panel.layers.layers["moving"].add(cells[1][1])
    wait(qtbot, lambda: len(panel.model.pairs) == 2 and panel.model.pairs[1].proposal is not None)
    press(qtbot, panel.add)
    assert panel.layers.layers["fixed"].mode == "select"
    press(qtbot, panel.accept)
    assert panel.model.pairs[1].lacks is None


def test_the_table_names_leaves_out_removes_and_leads_to_pairs(panel, qtbot, cells):
    complete(panel, cells)
    wait(qtbot, lambda: panel.table.item(4, BEFORE).text() not in ("", "-"))
    panel.table.item(1, NAME).setText("vessel fork")
    assert panel.model.pairs[1].name == "vessel fork"
    panel.table.item(2, NAME).setText("vessel fork")
    assert "another one is" in panel.message.text() and panel.table.item(2, NAME).text() == "Pt-2"
    panel.table.item(0, USE).setCheckState(Qt.CheckState.Unchecked)
    wait(qtbot, lambda: "(4 pairs)" in panel.figures.text())
    panel.table.cellDoubleClicked.emit(3, NAME)
    np.testing.assert_allclose(centre_of(panel.viewer), cells[0][3], atol=0.5)
    np.testing.assert_allclose(centre_of(panel.views.other), cells[1][3], atol=0.5)
    panel.table.selectRow(2)
    assert panel.layers.layers["fixed"].selected_data == {2} and [p.name for p in panel.chosen] == ["Pt-2"]
    press(qtbot, panel.remove)
    assert panel.table.rowCount() == 4 and len(panel.layers.layers["moving"].data) == 4
    panel.layers.layers["fixed"].selected_data = {0}
    assert [p.name for p in panel.chosen] == ["Pt-0"]
    panel.layers.layers["fixed"].remove_selected()
    assert [p.name for p in panel.model.pairs] == ["vessel fork", "Pt-3", "Pt-4"]


def test_snap_moves_the_chosen_points_and_says_how_far(panel, qtbot, cells):
    complete(panel, (cells[0][:2], cells[1][:2] + np.array((3.0, -5.0, 4.0))))
    press(qtbot, panel.snap)
    assert "choose the rows" in panel.message.text()
    panel.table.selectAll()
    panel.within.setValue(14)
    press(qtbot, panel.snap)
    wait(qtbot, lambda: "correlation" in panel.message.text() and panel.snap.isEnabled())
    assert all(np.linalg.norm(p.moving - m) < 4 for p, m in zip(panel.model.pairs, cells[1], strict=False))
    panel.within.setValue(5000)
    press(qtbot, panel.snap)
    wait(qtbot, lambda: "too wide" in panel.message.text())


def test_files_and_the_run_keep_the_pairs(panel, qtbot, cells, tmp_path, monkeypatch):
    complete(panel, cells)
    file = str(tmp_path / "marks.csv")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (file, ""))
    press(qtbot, panel.export)
    assert read_landmarks(file).names == ("Pt-0", "Pt-1", "Pt-2", "Pt-3", "Pt-4")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (file, ""))
    press(qtbot, panel.load)
    assert panel.table.rowCount() == 10 and panel.save.text().endswith("*")
    press(qtbot, panel.save)
    wait(qtbot, lambda: "kept in" in panel.message.text())
    assert len(panel.model.run.landmarks()) == 10 and not panel.save.text().endswith("*")
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (str(tmp_path / "no.csv"), ""))
    press(qtbot, panel.load)
    assert "holds no pairs" in panel.message.text()


def test_what_is_no_run_is_said_in_the_panel(make_napari_viewer, qtbot, tmp_path):
    panel = LandmarksPanel(make_napari_viewer())
    qtbot.addWidget(panel)
    assert not panel.add.isEnabled()
    qtbot.keyClicks(panel.choice.box.lineEdit(), str(tmp_path))
    qtbot.keyClick(panel.choice.box.lineEdit(), Qt.Key.Key_Return)
    wait(qtbot, lambda: "is not a bigreg run" in panel.message.text())


def test_the_pairs_lead_to_another_run(panel, qtbot, cells):
    complete(panel, cells)
    press(qtbot, panel.steer)
    wait(qtbot, lambda: panel.launch is not None)
    run, launch = panel.model.run, panel.launch.form.launch
    assert launch.overrides == (f"landmarks.path={run.store.path('landmarks', 'pairs.csv')}",)
    assert launch.fixed.open("fixed").identity()["shape"] == [32, 44, 48]
    assert bigreg.load_config(launch.config).result_part() == run.config.result_part()
    assert launch.run.endswith("run-steered.zarr") and len(run.landmarks()) == 5
    panel.launch.close()
