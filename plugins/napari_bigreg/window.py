"""`bigreg view`: a window of napari on some runs and results of `bigreg atlas`."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import napari
from napari.layers import Labels, Layer

from .shared import threads
from .shared.named import panel_class
from .shared.opened import layers_at
from .shared.slicing import read_in_threads


def open_window(paths: Sequence[str], panels: Sequence[str] = (), **settings: Any) -> napari.Viewer:
    """A viewer with the layers of runs and results of `bigreg atlas`, and with panels; `settings` are the viewer's.

    Raises InputError where there is neither, or one of another version.
    """
    layers = [layer for path in paths for layer in layers_at(path)]  # before a window opens for nothing
    viewer = napari.Viewer(title="bigreg", **settings)
    for layer in layers:
        viewer.add_layer(Layer.create(*layer))
    scale_bar_of(viewer).visible = True
    for name in panels:
        viewer.window.add_dock_widget(
            panel_class(name)(viewer), name=f"{name.capitalize()} (bigreg)", area="right", tabify=True
        )
    viewer.reset_view()
    if named := [layer for layer in viewer.layers if isinstance(layer, Labels)]:
        viewer.layers.selection.active = named[-1]  # whose values the status bar tells: the regions under the cursor
    return viewer


def scale_bar_of(viewer: Any) -> Any:
    """The scale bar; napari 0.9 has moved it."""
    canvas: Any = getattr(viewer, "canvas", None)
    return canvas.overlays.scale_bar if hasattr(canvas, "overlays") else viewer.scale_bar


def show(paths: Sequence[str], panels: Sequence[str]) -> None:
    """Open the window and stay until it is closed."""
    read_in_threads()
    open_window(paths, panels)
    # What is loaded by now stays. To look for garbage among it takes longer than a window may stand still.
    gc.collect()
    gc.freeze()
    try:
        napari.run()
    finally:
        gc.unfreeze()
    threads.finish()
