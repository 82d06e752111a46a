"""How long the window of napari stands still while one works in it: figures, nothing asserted. Needs a display.

    xvfb-run -a python tests/benchmarks/stillness.py RUN
    xvfb-run -a python tests/benchmarks/stillness.py RUN --preview    previews of the run's images

The longest time between two turns of the window's event loop during each action, with the panels on a finished run; and
the floor: the same in a napari that has the fixed image in memory and nothing of bigreg. Drawing by software, where
there is no GPU, is in both. Of the preview also how long it takes: seconds until it is shown, and of all threads of the
process (the window's too); both say nothing on a machine that has other work, but the second says less of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

WAIT = 3.0  # seconds after an action, for what it sets going


class Stillness:
    """The longest time between two turns of the event loop."""

    def __init__(self) -> None:
        self.longest, self._last = 0.0, time.perf_counter()
        self._timer = QTimer()
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._turn)
        self._timer.start()

    def _turn(self) -> None:
        now = time.perf_counter()
        self.longest, self._last = max(self.longest, now - self._last), now

    def until(self, action: Callable[[], object], holds: Callable[[], bool]) -> tuple[float, float, float]:
        """(longest between two turns, seconds, processor seconds) from an action until something holds."""
        QApplication.processEvents()
        self.longest, self._last = 0.0, time.perf_counter()
        begin, used = time.perf_counter(), time.process_time()
        action()
        while not holds():
            QApplication.processEvents()
            time.sleep(0.002)  # or this loop is what is measured
        return self.longest, time.perf_counter() - begin, time.process_time() - used

    def during(self, action: Callable[[], object], wait: float = WAIT) -> float:
        """Seconds, of an action and of what follows it."""
        QApplication.processEvents()
        self.longest, self._last = 0.0, time.perf_counter()
        action()
        end = time.perf_counter() + wait
        while time.perf_counter() < end:
            QApplication.processEvents()
        return self.longest


def tell(name: str, seconds: list[float]) -> None:
    print(f"| {name} | {1000 * np.median(seconds):.0f} ms | {1000 * max(seconds):.0f} ms |", flush=True)


def steps(still: Stillness, viewer: object) -> None:
    """Through the slices, and closer."""
    low, high, _ = viewer.dims.range[0]
    places = np.linspace(low, high, 12)[1:-1]
    tell("another slice", [still.during(lambda z=z: viewer.dims.set_point(0, z), 1.0) for z in places])
    camera = getattr(viewer, "camera", None) or viewer.canvas.camera
    zooms = [2.0, 2.0, 0.5, 0.5]
    tell("zoom", [still.during(lambda f=f: setattr(camera, "zoom", camera.zoom * f), 1.0) for f in zooms])


def opening(url: str) -> None:
    """A napari with one layer that has nothing of bigreg yet: a run is dropped on it, panels are opened by the menu."""
    import napari
    from napari.layers import Layer

    viewer = napari.Viewer()
    viewer.add_image(np.zeros((9, 9, 9)))
    still = Stillness()
    still.during(lambda: None)
    print("| **napari as it is installed, slices read in its window's thread** | | |")
    for name in ("Inspect", "Launch", "Landmarks", "Monitor"):
        tell(
            f"panel {name} by the menu",
            [still.during(lambda n=name: viewer.window.add_plugin_dock_widget("bigreg", n), 8.0)],
        )
    from napari_bigreg.reader import read

    layers: list = []
    tell("the plugin reads a run", [still.during(lambda: layers.extend(read(url)))])
    own = [still.during(lambda d=data: viewer.add_layer(Layer.create(*d)), 1.0) for data in layers]
    tell(f"napari adds its {len(layers)} layers, each", own)
    viewer.close()


def preview(url: str) -> None:
    """The Launch panel filled in with a run's images: what a person waits for who tries one value after another."""
    from napari_bigreg.shared.registration import Choice, Launch
    from napari_bigreg.shared.slicing import read_in_threads
    from napari_bigreg.window import open_window

    import bigreg

    read_in_threads()
    images = bigreg.open_run(url).store.attributes["images"]
    viewer = open_window([url], ["launch"])
    (panel,) = (d.inner_widget() for d in viewer.window._wrapped_dock_widgets.values())
    still = Stillness()

    def row(name: str, action: Callable[[], object], holds: Callable[[], bool]) -> None:
        longest, seconds, used = still.until(action, holds)
        error = panel.message.text() if panel.message.styleSheet() else ""
        print(f"| {name} | {seconds:.1f} s | {used:.1f} s | {1000 * longest:.0f} ms | {error}", flush=True)

    def shown() -> bool:
        return panel._previewing is None

    print("| what | seconds | processor | window stands still | |\n| --- | --- | --- | --- | --- |")
    row("loading, as the panel is opened", lambda: None, lambda: not panel._warming.running)
    for level in (1, 0):
        for name, stiffness in (("first", 0.8), ("another value", 1.2), ("another value", 0.5)):
            value = f"engine_options.optimise.regularisation={stiffness}"
            panel.form.fill(Launch(Choice.of(images["fixed"]), Choice.of(images["moving"]), overrides=(value,)))
            panel.level.setCurrentIndex(level)
            row(f"level {level}, {name}", panel.try_it.click, shown)
    begin = time.perf_counter()
    viewer.close()
    print(f"| closing | {time.perf_counter() - begin:.1f} s |")


def main(url: str) -> None:
    import napari

    print("| what | median | longest |\n| --- | --- | --- |")
    opening(url)  # before anything else has loaded bigreg

    import bigreg

    run = bigreg.open_run(url)
    finest = run.pyramid("fixed")[0]
    image = finest.read((0, 0, 0), finest.grid.shape)
    plain = napari.Viewer()
    for _ in range(2):
        plain.add_image(image, scale=finest.grid.spacing, blending="additive")
    still = Stillness()
    still.during(lambda: None)
    print("| **napari alone, two images in memory** | | |")
    steps(still, plain)
    arrows = np.random.default_rng(0).uniform(0, 50, (4000, 2, 3))
    kinds = {
        "an image": lambda: plain.add_image(image),
        "4000 vectors": lambda: plain.add_vectors(arrows),
        "100 points": lambda: plain.add_points(arrows[:100, 0]),
    }
    for name, add in kinds.items():
        for time_ in ("the first", "another"):
            tell(f"a layer of {name}, {time_}", [still.during(add)])
    plain.close()

    from napari_bigreg.inspect.model import OVERLAYS
    from napari_bigreg.shared.slicing import read_in_threads
    from napari_bigreg.window import open_window

    print("| **a run, panels inspect and monitor** | | |")
    read_in_threads()
    viewer = open_window([url], ["inspect", "monitor"])
    still = Stillness()
    still.during(lambda: None, 10.0)
    steps(still, viewer)
    docks = {type(w).__name__: w for w in (d.inner_widget() for d in viewer.window._wrapped_dock_widgets.values())}
    panel, monitor = docks["InspectPanel"], docks["MonitorPanel"]
    for mode in OVERLAYS:
        tell(f"overlay {mode}", [still.during(lambda m=mode: panel.mode.setCurrentText(m))])
    tell("another slice, last overlay", [still.during(lambda z=z: viewer.dims.set_point(0, z)) for z in (20.0, 90.0)])
    tell("next worst block", [still.during(panel.next.click) for _ in range(4)])
    for name in ("arrows", "grid", "jacobian", "risk", "folds"):
        tell(f"{name}, first time", [still.during(getattr(panel, name).click)])
        still.during(getattr(panel, name).click)
        tell(f"{name}, again", [still.during(getattr(panel, name).click)])
        still.during(getattr(panel, name).click)
    tell("the monitor looks", [still.during(monitor.refresh) for _ in range(3)])
    viewer.close()


if __name__ == "__main__":
    (preview if "--preview" in sys.argv[2:] else main)(sys.argv[1])
