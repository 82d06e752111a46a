"""On a small screen nothing of a panel is cut, and nothing lies on anything else."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("napari", reason="needs bigreg[napari]")
pytest.importorskip("pytestqt", reason="needs bigreg[test]")
from napari_bigreg import window
from napari_bigreg.shared import named
from napari_bigreg.shared.controls import Picture, Scrolled
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel, QVBoxLayout, QWidget

SMALL = 1366, 768


def faults(area: Scrolled) -> list[str]:
    """What of a scroll area is cut or overlaps."""
    inside = area.widget()
    found = [] if area.horizontalScrollBar().maximum() == 0 else ["wider than its place"]
    seen = [w for w in inside.findChildren(QWidget) if w.isVisible() and w.parent().isVisible()]
    for widget in seen:
        if not isinstance(widget, QLabel | QAbstractButton | QComboBox):
            continue
        place = widget.mapTo(inside, widget.rect().topLeft())
        name = f"{type(widget).__name__} {getattr(widget, 'text', widget.objectName)()!r}"
        if place.x() < 0 or place.x() + widget.width() > inside.width():
            found.append(f"{name} goes over the side")
        wanted = widget.minimumSizeHint().height()
        if isinstance(widget, QLabel) and widget.hasHeightForWidth():
            wanted = widget.heightForWidth(widget.width())
        if widget.height() < wanted:
            found.append(f"{name} is {widget.height()} high, not {wanted}")
        if isinstance(widget, QAbstractButton) and widget.width() < min(widget.sizeHint().width(), 30):
            found.append(f"{name} is too narrow")
    for one, other in itertools.combinations([w for w in seen if w.parent() is inside], 2):
        if one.geometry().intersects(other.geometry()):
            found.append(f"{type(one).__name__} and {type(other).__name__} overlap")
    return found


@pytest.fixture
def small_window(make_napari_viewer, finished, monkeypatch, until):
    monkeypatch.setattr(window.napari, "Viewer", lambda **settings: make_napari_viewer(**settings))
    viewer = window.open_window([str(finished)], list(named.NAMES), show=True)
    viewer.window._qt_window.showNormal()
    viewer.window._qt_window.resize(*SMALL)
    panels = {name: viewer.window.dock_widgets[f"{name.capitalize()} (bigreg)"] for name in named.NAMES}
    yield viewer, panels
    for panel in panels.values():
        panel.close()
        until(lambda panel=panel: not panel._work._jobs)


def test_all_panels_fit_as_tabs_with_a_run_a_block_a_plan_and_an_error(small_window, until, qtbot, tmp_path):
    viewer, panels = small_window
    monitor, launch = panels["monitor"], panels["launch"]
    until(lambda: monitor.snapshot is not None and all(panels[n].model is not None for n in ("inspect", "landmarks")))
    monitor.show_block("levels/0", (0, 1, 1))
    until(lambda: monitor.title.property("status") is not None)
    launch.form.images["moving"].path.setText(str(tmp_path / ("a long name " * 8)) + "/moving.tif")
    launch.form.images["fixed"].path.setText(str(tmp_path))
    launch.rows.setText("<br>".join(f"row {n} of a plan, which says a lot about what it is" for n in range(25)))
    launch.make_plan()
    until(lambda: launch._checking is None)
    docks = {panel: viewer.window._wrapped_dock_widgets[f"{n.capitalize()} (bigreg)"] for n, panel in panels.items()}
    for panel, holder in docks.items():
        holder.raise_()
        qtbot.wait(300)
        (area,) = panel.findChildren(Scrolled)
        assert area.isVisible() and faults(area) == []
    assert viewer.window._qt_window.width() <= SMALL[0] and viewer.window._qt_window.height() <= SMALL[1]
    (area,) = launch.findChildren(Scrolled)
    assert area.verticalScrollBar().maximum() > 0  # it is more than the screen shows
    wrong = next(field for field in launch.form.fields.values() if not field.error.isHidden())
    top = wrong.mapTo(area.viewport(), wrong.rect().topLeft()).y()
    assert -wrong.height() < top < area.viewport().height()  # the error is scrolled into sight


def test_the_faults_of_a_label_that_is_cut_are_seen(qtbot):
    inside = QWidget()
    layout = QVBoxLayout(inside)
    label = QLabel("many words " * 30)
    label.setWordWrap(True)
    label.setMaximumHeight(10)
    layout.addWidget(label)
    area = Scrolled(inside)
    qtbot.addWidget(area)
    area.resize(200, 300)
    area.show()
    qtbot.waitExposed(area)
    assert any("high" in fault for fault in faults(area))


def test_a_picture_keeps_its_shape_and_is_as_wide_as_its_place(qtbot):
    inside = QWidget()
    layout = QVBoxLayout(inside)
    picture = Picture()
    picture.setPixmap(QPixmap(1300, 900))
    layout.addWidget(picture)
    layout.addStretch(1)
    area = Scrolled(inside)
    qtbot.addWidget(area)
    area.resize(400, 700)
    area.show()
    qtbot.waitExposed(area)
    assert 350 < picture.width() <= 400
    assert picture.height() == pytest.approx(picture.width() * 900 / 1300, abs=2)
