"""`bigreg view` and the sample runs."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import bigreg
from bigreg.cli import app
from bigreg.errors import InputError

pytest.importorskip("napari", reason="needs bigreg[napari]")
from qtpy.QtWidgets import QDockWidget


def view(*arguments) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["view", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


def test_without_napari_the_verb_says_what_to_install(finished, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("napari_bigreg")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "napari", None)
    status, output = view(finished)
    assert status == 4 and "pip install 'bigreg[napari]'" in output


def test_the_verb_names_what_is_no_run_and_what_is_no_panel(finished, tmp_path):
    nothing = "is not a bigreg run, nor a result of bigreg atlas, nor an image"
    status, output = view(tmp_path)
    assert status == 3 and output == f"error: '{tmp_path}' {nothing}; check the path"
    (text := tmp_path / "notes.txt").write_text("none\n")
    status, output = view(text)
    assert status == 3 and output.startswith(f"error: '{text}' {nothing}: ")
    status, output = view(finished, "--panel", "bogus")
    assert status == 4 and "'bogus' is unknown; use monitor, inspect, landmarks, launch" in output


def test_a_window_has_the_layers_of_all_runs_and_the_panels(make_napari_viewer, until, finished, run_copy, monkeypatch):
    from napari_bigreg import window

    monkeypatch.setattr(window.napari, "Viewer", lambda **settings: make_napari_viewer(**settings))
    viewer = window.open_window([str(finished), str(run_copy)], ["monitor", "inspect"])
    assert {layer.metadata["bigreg"]["run"] for layer in viewer.layers} == {str(finished), str(run_copy)}
    docks = viewer.window.dock_widgets
    panels = [docks[f"{name} (bigreg)"] for name in ("Monitor", "Inspect")]
    window_of, docked = viewer.window._qt_window, [d for d in viewer.window._qt_window.findChildren(QDockWidget)]
    monitor = next(d for d in docked if d.windowTitle() == "Monitor (bigreg)")
    assert [d.windowTitle() for d in window_of.tabifiedDockWidgets(monitor)] == ["Inspect (bigreg)"]
    until(lambda: panels[0].snapshot is not None and panels[1].model is not None)
    assert panels[0].model.url == str(run_copy)  # the one that was opened last
    for panel in panels:
        until(lambda panel=panel: not panel._work._jobs)
        panel.close()


def test_the_finished_sample_is_made_once(make_napari_viewer, finished, tmp_path, monkeypatch):
    from napari_bigreg import samples

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = samples.cache() / f"demo-{bigreg.__version__}"
    shutil.copytree(finished, folder / "run.zarr")
    monkeypatch.setattr(samples, "make_demo", lambda folder: pytest.fail("it was made again"))
    make_napari_viewer()
    assert len(samples.finished_run()) == 8


def copying(run, folder) -> tuple[str, subprocess.Popen]:
    """In place of the demo, which takes minutes: a process that brings a finished run."""
    code = "import shutil, sys, time; time.sleep(0.5); shutil.copytree(sys.argv[1], sys.argv[2])"
    target = str(folder / "run.zarr")
    return target, subprocess.Popen([sys.executable, "-c", code, str(run), target])


def test_the_live_sample_opens_with_the_monitor(make_napari_viewer, until, finished, monkeypatch):
    from napari_bigreg import samples
    from napari_bigreg.shared.panel import layer_of

    monkeypatch.setattr(samples, "make_demo", lambda folder: copying(finished, folder))
    viewer = make_napari_viewer()
    monkeypatch.setattr(samples.napari, "current_viewer", lambda: viewer)
    assert samples.live_run() == []
    until(lambda: "Monitor (bigreg)" in viewer.window.dock_widgets)
    panel = viewer.window.dock_widgets["Monitor (bigreg)"]
    until(lambda: panel.snapshot is not None and layer_of(viewer, panel.model.url, "blocks") is not None)
    until(lambda: not panel._asking)
    panel.close()


def test_a_demo_that_ends_early_says_so(tmp_path):
    from napari_bigreg.samples import wait_for

    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    with pytest.raises(InputError, match=r"ended early \(exit status 3\)"):
        wait_for(str(tmp_path / "run.zarr"), process, lambda *step: None, finished=True)


def test_a_window_that_is_closed_while_it_works_leaves_no_error(finished, qtbot):
    """A process of its own, as `bigreg view` is; closed at once after a move, before what that sets going is done."""
    code = f"""
import napari
from qtpy.QtCore import QTimer
from napari.qt import get_qapp
from napari_bigreg import window

application = get_qapp()

def work():
    viewer = napari.current_viewer()
    viewer.dims.set_point(0, 30.0)
    panel = next(w for w in viewer.window._qt_window.findChildren(object) if type(w).__name__ == "InspectPanel")
    panel.compute()
    viewer.window._qt_window.close()

QTimer.singleShot(3000, work)
window.show([{str(finished)!r}], ["inspect", "monitor"])
print("ended")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip().endswith("ended"), done.stderr
    assert "Traceback" not in done.stderr and "Error" not in done.stderr


def test_what_a_reading_thread_hands_to_the_window_is_freed_by_the_window(qtbot, until, monkeypatch):
    """Else that thread may wait for ever for the window, and the window for it."""
    import threading
    import weakref

    from napari_bigreg.shared import slicing
    from superqt.utils import _ensure_thread, ensure_main_thread

    monkeypatch.setattr(_ensure_thread, "Future", _ensure_thread.Future)  # as it was, afterwards
    monkeypatch.setenv("NAPARI_ASYNC", "0")
    slicing.read_in_threads()
    handed, made, freed = [], [], []

    class Watched(slicing.Kept):
        def __init__(self):
            super().__init__()
            made.append(weakref.ref(self))
            weakref.finalize(self, lambda: freed.append(threading.current_thread()))

    monkeypatch.setattr(_ensure_thread, "Future", Watched)
    hand = ensure_main_thread(handed.append)

    def read():
        for number in range(200):
            hand(number)
            assert made[-1]() is not None

    thread = threading.Thread(target=read)
    thread.start()
    until(lambda: len(handed) == 200)
    thread.join()
    assert handed == list(range(200)) and not slicing._waiting
    assert len(freed) >= 100 and set(freed) == {threading.main_thread()}


def test_what_is_loaded_is_not_looked_through_for_garbage_again_and_again(finished):
    code = f"""
import gc
from qtpy.QtCore import QTimer
from napari.qt import get_qapp
from napari_bigreg import window
import napari

application, seen = get_qapp(), []

def close():
    seen.append(gc.get_freeze_count())
    napari.current_viewer().window._qt_window.close()

QTimer.singleShot(3000, close)
window.show([{str(finished)!r}], ["monitor"])
assert seen[0] > 100_000 and gc.get_freeze_count() == 0
print("ended")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip().endswith("ended"), done.stderr
