"""A screen for napari, that of the machine or a virtual one, and small runs to look at."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

import bigreg
from bigreg import load_config, register
from bigreg.phantom import make_pair

NEEDED = ("napari", "PySide6", "pytestqt")


def _screen() -> str | None:
    """Why there is no screen; None where there is one: DISPLAY is set then, Xvfb is started if it has to be."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)}: pip install 'bigreg[test]'"
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return None
    program = shutil.which("Xvfb")
    if program is None:
        return "a display, or Xvfb on the PATH: apt install xvfb libgl1-mesa-dri"
    reader, writer = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(writer), "-screen", "0", "1600x1000x24", "-nolisten", "tcp"],
        pass_fds=(writer,), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writer)
    atexit.register(server.terminate)
    with os.fdopen(reader) as answer:
        number = answer.readline().strip()
    if not number:
        return "a display: Xvfb did not start"
    os.environ["DISPLAY"] = f":{number}"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that open a window are skipped where none can be opened; those of the models are not."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    windows = [item for item in here if {"make_napari_viewer", "qtbot"} & set(getattr(item, "fixturenames", ()))]
    problem = _screen() if windows else None
    if problem is None and windows and not config.pluginmanager.has_plugin("pytestqt.plugin"):
        problem = "Qt's system libraries: apt install libegl1 libgl1 libxkbcommon-x11-0 libxcb-cursor0 libdbus-1-3"
    for item in windows if problem else ():
        item.add_marker(pytest.mark.skip(reason=f"needs {problem}"))


CONFIG = [
    "affine.voxels=64",
    "affine.rotations_deg=0",
    "ladder.finest=1",
    "ladder.coarsest=2",
    "ladder.iterations=[8,8]",
    "blocks.core=24",
    "blocks.halo=8",
    "output.chunk=16",
    "output.shard=32",
]


@pytest.fixture(scope="session")
def small_config():
    return load_config(preset="demo", overrides=CONFIG)


@pytest.fixture(scope="session")
def pair():
    return make_pair((31, 46, 55), (4.0, 2.6, 2.6), seed=3, max_displacement_um=6.0)


@pytest.fixture(scope="session")
def finished(pair, small_config, tmp_path_factory) -> Path:
    """A finished run of a small pair, whose fields' last blocks are one sample thick; not to be changed."""
    out = tmp_path_factory.mktemp("napari") / "run.zarr"
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        fixed, moving = (pair.fixed, pair.spacing), (pair.moving, pair.spacing)
        register(fixed, moving, out=str(out), config=small_config, client=client)
    return out


@pytest.fixture
def run_copy(finished, tmp_path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run.zarr"))


@pytest.fixture
def failed_run(run_copy) -> Path:
    """A run that ended early: blocks of the finest level failed, are blank, were never begun; no fields."""
    run = bigreg.open_run(str(run_copy))
    status = run.store.array("levels/0/status", write=True)
    values = status[...]
    values[0, 0, 1], values[0, 1, 0], values[1, 1, 1], values[-1, -1, -1] = 4, 3, 4, 0
    status.write((0, 0, 0), values)
    for place in (
        "levels/0/compose",
        "stages/check",
        "stages/fixed_to_moving",
        "stages/warped",
        "warped",
        "stages/confidence",
        "confidence",
        "stages/noncorrespondence",
        "noncorrespondence",
        "report",
    ):
        shutil.rmtree(run_copy / place)
    error = {"stage": "levels/0", "block": [1, 1, 1], "message": "RuntimeError: broken on purpose", "accepted": False}
    run.store.update(state="incomplete", errors=[{**error, "trace": "Traceback: line 7, in estimate"}])
    return run_copy


@pytest.fixture
def plugin(npe2pm):
    """The manifest of the plugin, known to a plugin manager of this test's own."""
    import napari_bigreg
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(Path(napari_bigreg.__file__).with_name("napari.yaml"))
    npe2pm.register(manifest)
    return manifest


@pytest.fixture
def dock(plugin, until) -> Callable[[Any, str], Any]:
    """Opens a panel as napari's menu does, which hands it the viewer without what is private."""

    def open_(viewer: Any, name: str) -> Any:
        _, widget = viewer.window.add_plugin_dock_widget(plugin.name, name)
        until(lambda: widget.panel is not None)
        return widget.panel

    return open_


@pytest.fixture
def until(qtbot) -> Callable[..., None]:
    """Let the window work until something holds: a loaded machine may take its time."""

    def wait(holds: Callable[[], bool], seconds: float = 150) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "this never came to hold"
            qtbot.wait(30)

    return wait
