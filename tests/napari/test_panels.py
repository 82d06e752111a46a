"""The panels as napari's menu opens them, and how they end."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("napari", reason="needs bigreg[napari]")
pytest.importorskip("pytestqt", reason="needs bigreg[test]")
from napari_bigreg.shared import named


@pytest.mark.parametrize("name", named.NAMES)
def test_the_menu_opens_every_panel_and_closing_its_dock_ends_it(make_napari_viewer, dock, until, name):
    viewer = make_napari_viewer()
    panel = dock(viewer, name.capitalize())
    assert isinstance(panel, named.panel_class(name)) and panel.isVisibleTo(viewer.window._qt_window)
    (shell,) = viewer.window._wrapped_dock_widgets.values()
    assert shell.inner_widget().panel is panel
    shell.destroyOnClose()  # its cross
    assert panel.ended
    until(lambda: not panel._work._jobs)


def test_a_panel_that_cannot_be_loaded_says_why(make_napari_viewer, plugin, until, monkeypatch):
    viewer = make_napari_viewer()

    def broken(name, package=None):
        raise ImportError("libcuda.so.1 is missing")

    monkeypatch.setattr(named, "import_module", broken)
    _, widget = viewer.window.add_plugin_dock_widget(plugin.name, "Inspect")
    assert "loading" in widget.text.text()
    until(lambda: "ImportError: libcuda.so.1 is missing" in widget.text.text())
    assert widget.panel is None and not widget.bar.isVisible()


def test_what_the_menu_imports_is_light():
    code = (
        "import sys, napari_bigreg.panels, napari_bigreg.reader, napari_bigreg.samples; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
