"""`bigreg view`: a window of napari on some runs."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import napari
from napari.layers import Layer

from .shared import threads
from .shared.named import panel_class
from .shared.open_model import RunView
from .shared.slicing import read_in_threads


def open_window(runs: Sequence[str], panels: Sequence[str] = (), **settings: Any) -> napari.Viewer:
    """A viewer with the layers of runs and with panels; `settings` are the viewer's.

    Raises InputError where there is no run, or one of another version.
    """
    layers = [layer for run in runs for layer in RunView(run).layers()]  # before a window opens for nothing
    viewer = napari.Viewer(title="bigreg", **settings)
    for layer in layers:
        viewer.add_layer(Layer.create(*layer))
    scale_bar_of(viewer).visible = True
    for name in panels:
        viewer.window.add_dock_widget(
            panel_class(name)(viewer), name=f"{name.capitalize()} (bigreg)", area="right", tabify=True
        )
    viewer.reset_view()
    return viewer


def scale_bar_of(viewer: Any) -> Any:
    """The scale bar; napari 0.9 has moved it."""
    canvas: Any = getattr(viewer, "canvas", None)
    return canvas.overlays.scale_bar if hasattr(canvas, "overlays") else viewer.scale_bar


def show(runs: Sequence[str], panels: Sequence[str]) -> None:
    """Open the window and stay until it is closed."""
    read_in_threads()
    open_window(runs, panels)
    # What is loaded by now stays. To look for garbage among it takes longer than a window may stand still.
    gc.collect()
    gc.freeze()
    try:
        napari.run()
    finally:
        gc.unfreeze()
    threads.finish()
