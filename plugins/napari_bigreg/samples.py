"""File > Open Sample: small runs that are made when they are asked for, by a process of their own."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from subprocess import Popen

import napari

import bigreg
from bigreg.errors import InputError

from .shared.named import panel_class
from .shared.open_model import RunView
from .shared.panel import adding
from .shared.processes import start_process
from .shared.threads import Report, awaited, in_turns, start

WAIT_SECONDS = 600


def cache() -> Path:
    """Where samples are kept: below XDG_CACHE_HOME, or what the system has for it."""
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "bigreg"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "bigreg"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "bigreg"


def make_demo(folder: Path) -> tuple[str, Popen]:
    """Begin the demo in a folder that is not there yet: the run that will be, and the process that makes it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    process = start_process(["demo", "--out", str(folder)], folder.with_name(f"{folder.name}.log"))
    return str(folder / "run.zarr"), process


def wait_for(run: str, process: Popen, report: Report, *, finished: bool) -> str:
    """Wait until a run is there, or is finished. Raises InputError where its process ends before."""
    begin = time.monotonic()
    while time.monotonic() - begin < WAIT_SECONDS:
        ended = process.poll() is not None
        if bigreg.is_run(run):
            status = bigreg.open_run(run).status()
            report(status.done, status.blocks, f"{status.done} of {status.blocks} blocks")
            if status.state == "finished" or (not finished and status.blocks):
                return run
        else:
            report(0, 0, "making two phantoms")
        if ended:
            raise InputError(f"the demo ended early (exit status {process.returncode}); see {Path(run).parent}.log")
        time.sleep(0.3)
    raise InputError(f"'{run}' did not appear within {WAIT_SECONDS} s; see {Path(run).parent}.log")


def _finished(run: str) -> list:
    """The layers of a run, if it is one that is finished."""
    done = bigreg.is_run(run) and bigreg.open_run(run).status().state == "finished"
    return RunView(run).layers() if done else []


def finished_run() -> list:
    """Two phantoms of a cleared brain, registered: made once, in about a minute, and kept."""
    folder = cache() / f"demo-{bigreg.__version__}"
    viewer, run = napari.current_viewer(), str(folder / "run.zarr")
    if layers := awaited(lambda: _finished(run)):
        return layers
    if folder.exists():  # a process that makes it goes on, or one was killed
        folder = Path(tempfile.mkdtemp(prefix="bigreg-")) / "demo"
    run, process = make_demo(folder)
    start(
        lambda report: RunView(wait_for(run, process, report, finished=True)).layers(),
        "Making the sample",
        done=lambda layers: in_turns(*adding(viewer, layers)),
    )
    return []


def live_run() -> list:
    """The same pair while it is being registered, with the Monitor panel."""
    viewer = napari.current_viewer()
    run, process = make_demo(Path(tempfile.mkdtemp(prefix="bigreg-")) / "demo")

    def work(report: Report) -> tuple[type, list]:
        return panel_class("monitor"), RunView(wait_for(run, process, report, finished=False)).layers()

    def watch(found: tuple[type, list]) -> None:
        monitor, layers = found
        panel = monitor(viewer)
        viewer.window.add_dock_widget(panel, name="Monitor (bigreg)", area="right")
        in_turns(*adding(viewer, layers), lambda: panel.choice.set(run))

    start(work, "Beginning a run", done=watch)
    return []
