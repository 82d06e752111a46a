"""The Inspect panel, each of its controls used as a person does."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari", reason="needs bigreg[napari]")
pytest.importorskip("pytestqt", reason="needs bigreg[test]")
from napari_bigreg.inspect.model import CHECKER, COMPUTED, FLICKER, SWIPE
from napari_bigreg.inspect.panel import InspectPanel
from napari_bigreg.shared.panel import layer_of


@pytest.fixture
def inspect(make_napari_viewer, dock, until):
    """A panel on a run, everything computed."""
    panels = []

    def make(url):
        viewer = make_napari_viewer()
        panel = dock(viewer, "Inspect")
        panels.append(panel)
        panel.choice.set(str(url))
        until(lambda: panel.model is not None)
        settle(panel, until)
        return viewer, panel

    yield make
    for panel in panels:
        panel.close()
        until(lambda panel=panel: not panel._work._jobs, 30)


def settle(panel, until) -> None:
    until(lambda: not panel._busy and not panel._settle.isActive())


def shown(viewer, panel) -> set[str]:
    known = ("fixed", "affine", "warped", "picture", "arrows", "grid", "jacobian", "risk", "map", "folds")
    layers = {what: layer_of(viewer, panel.model.url, what) for what in known}
    return {what for what, layer in layers.items() if layer is not None and layer.visible}


def test_the_verdict_is_shown(inspect, finished):
    _, panel = inspect(finished)
    assert panel.model.verdict.headline in panel.verdict.text() and not panel.verdict.isHidden()
    assert panel.model.verdict.similarity.split(" ")[0] in panel.verdict.text()


def test_every_overlay_and_the_state_before(inspect, until, finished):
    viewer, panel = inspect(finished)
    assert shown(viewer, panel) == {"fixed", "warped"}
    pictures = []
    for mode in COMPUTED:
        panel.mode.setCurrentText(mode)
        settle(panel, until)
        assert shown(viewer, panel) == {"picture"}, mode
        assert panel.tile.isEnabled() == (mode == CHECKER) and panel.curtain.isEnabled() == (mode == SWIPE)
        pictures.append(layer_of(viewer, panel.model.url, "picture").data.copy())
        panel.before.setChecked(True)
        settle(panel, until)
        assert not np.array_equal(layer_of(viewer, panel.model.url, "picture").data, pictures[-1]), mode
        panel.before.setChecked(False)
        settle(panel, until)
    assert len({picture.tobytes() for picture in pictures}) == len(COMPUTED)
    panel.mode.setCurrentIndex(0)
    panel.before.setChecked(True)
    assert shown(viewer, panel) == {"fixed", "affine"}


@pytest.mark.parametrize(("mode", "control", "value"), [(CHECKER, "tile", 11.0), (SWIPE, "curtain", 90)])
def test_an_overlays_own_control_changes_it(inspect, until, finished, mode, control, value):
    viewer, panel = inspect(finished)
    panel.mode.setCurrentText(mode)
    settle(panel, until)
    before = layer_of(viewer, panel.model.url, "picture").data.copy()
    getattr(panel, control).setValue(value)
    settle(panel, until)
    assert not np.array_equal(layer_of(viewer, panel.model.url, "picture").data, before)


def test_flicker_shows_one_image_after_the_other(inspect, qtbot, finished):
    viewer, panel = inspect(finished)
    panel.mode.setCurrentText(FLICKER)
    seen = set()
    for _ in range(8):
        seen |= {frozenset(shown(viewer, panel))}
        qtbot.wait(300)
    assert seen == {frozenset({"fixed"}), frozenset({"warped"})}
    panel.mode.setCurrentIndex(0)
    assert shown(viewer, panel) == {"fixed", "warped"} and not panel._flicker.isActive()


def test_the_picture_follows_the_slice(inspect, until, finished):
    viewer, panel = inspect(finished)
    panel.mode.setCurrentText(CHECKER)
    settle(panel, until)
    layer = layer_of(viewer, panel.model.url, "picture")
    before = layer.data.copy()
    viewer.dims.set_point(0, 40.0)
    at = viewer.dims.point[0]
    assert np.isclose(layer.translate[0], at)  # at once, so that nothing blinks
    settle(panel, until)
    assert np.isclose(layer.translate[0], at) and not np.array_equal(layer.data, before)
    viewer.dims.order = (1, 0, 2)
    settle(panel, until)
    assert layer.data.shape[1] == 1


def test_arrows_and_grid_have_the_density_and_length_that_are_chosen(inspect, until, finished):
    viewer, panel = inspect(finished)
    panel.arrows.setChecked(True)
    settle(panel, until)
    panel.grid.setChecked(True)
    settle(panel, until)
    assert {"arrows", "grid"} <= shown(viewer, panel)
    arrows, grid = (layer_of(viewer, panel.model.url, what) for what in ("arrows", "grid"))
    counts = len(arrows.data), len(grid.data)
    panel.density.setValue(10)
    panel.longer.setValue(7)
    settle(panel, until)
    assert len(arrows.data) < counts[0] and len(grid.data) < counts[1] and arrows.length == 7
    panel.arrows.setChecked(False)
    panel.grid.setChecked(False)
    settle(panel, until)
    assert not {"arrows", "grid"} & shown(viewer, panel)


def test_jacobian_folds_and_block_maps_are_switched(inspect, until, finished):
    viewer, panel = inspect(finished)
    panel.jacobian.setChecked(True)
    assert "jacobian" in shown(viewer, panel)
    panel.risk.setChecked(True)
    assert "risk" in shown(viewer, panel)
    panel.risk.setChecked(False)
    assert "risk" not in shown(viewer, panel)
    panel.folds.setChecked(True)
    until(lambda: "folds" in shown(viewer, panel))
    assert panel.folds.text() == "folds: 0"
    panel.folds.setChecked(False)
    panel.jacobian.setChecked(False)
    assert not {"jacobian", "folds"} & shown(viewer, panel)
    for place in range(1, panel.map.count()):
        panel.map.setCurrentIndex(place)
        assert layer_of(viewer, panel.model.url, "map").name == panel.map.currentText()
    assert panel.map.count() == 1 + len(panel.model.maps()) > 4
    panel.map.setCurrentIndex(0)
    assert "map" not in shown(viewer, panel)


def test_the_worst_blocks_are_gone_through_in_order(inspect, until, finished):
    viewer, panel = inspect(finished)
    panel.rank.setCurrentText("similarity after")
    panel.next.click()
    first = panel.where.text()
    index, value = panel.ranked[0]
    assert str(index) in first and f"{value:.3g}" in first
    low, high = panel.model.box("similarity after", index)
    assert (np.asarray(viewer.dims.point) >= low - 4).all() and (np.asarray(viewer.dims.point) <= high + 4).all()
    panel.next.click()
    assert str(panel.ranked[1][0]) in panel.where.text()
    panel.previous.click()
    assert panel.where.text() == first
    settle(panel, until)


def test_three_dimensions_show_both_images(inspect, until, finished):
    viewer, panel = inspect(finished)
    panel.mode.setCurrentText(CHECKER)
    panel.arrows.setChecked(True)
    settle(panel, until)
    panel.solid.setChecked(True)
    settle(panel, until)
    assert viewer.dims.ndisplay == 3 and shown(viewer, panel) == {"fixed", "warped"}
    panel.solid.setChecked(False)
    settle(panel, until)
    assert viewer.dims.ndisplay == 2 and shown(viewer, panel) == {"picture", "arrows"}


def test_screenshot_and_figure_are_saved(inspect, until, finished, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    _, panel = inspect(finished)
    for button, name in ((panel.screenshot, "shot.png"), (panel.figure, "figure.svg")):
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, name=name: (str(tmp_path / name), ""))
        button.click()
        until(lambda name=name: name in panel.text.text())
        assert (tmp_path / name).stat().st_size > 1000


def test_a_run_without_fields_offers_what_it_has(inspect, failed_run):
    viewer, panel = inspect(failed_run)
    assert "affine alone" in panel.text.text() and shown(viewer, panel) == {"fixed", "affine"}
    assert not any(w.isEnabled() for w in (panel.arrows, panel.grid, panel.jacobian, panel.folds, panel.before))
    assert panel.mode.isEnabled()


def test_what_is_no_run_is_said_in_the_panel(make_napari_viewer, until, tmp_path):
    panel = InspectPanel(make_napari_viewer())
    panel.choice.set(str(tmp_path / "nothing.zarr"))
    until(lambda: "is not a bigreg run" in panel.text.text())
    assert not panel.mode.isEnabled()
    panel.close()
