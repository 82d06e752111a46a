"""What the folder that `bigreg atlas` wrote looks like in napari: everything where it lies in the brain."""

from __future__ import annotations

from collections.abc import Callable

from bigreg import storage
from bigreg.atlases import AtlasResult
from bigreg.atlases.result import ANNOTATION, BORDERS
from bigreg.errors import BigregError

from .image_layers import image_layers, labels_layer
from .lazy import Tell, warn
from .open_model import LayerData, RunView, dots

CELL_VOXELS = 2
"""Voxels of the brain that a cell is drawn wide."""


def atlas_layers(url: str, tell: Tell = warn) -> list[LayerData]:
    """The brain, the annotation with the names of its regions, their borders, the cells; what is below comes first.

    What is damaged, or not there yet, is told and left out. Raises InputError where no brain is to be seen.
    """
    result = AtlasResult(url)
    found = [_brain(result, tell)]
    parts: tuple[tuple[str, Callable[[], LayerData | None]], ...] = (
        ("annotation", lambda: labels_layer(storage.join(url, ANNOTATION), tell, opacity=0.3)),
        ("borders", lambda: _borders(url, tell)),
        ("cells", lambda: _cells(result)),
    )
    for name, make in parts:
        try:
            layer = make()
        except BigregError as error:
            tell(f"{name} not shown: {error}")
            continue
        if layer is not None:
            found.append(layer)
    for _, settings, _ in found:
        settings["metadata"] = {"bigreg": {"atlas": url, "what": settings["name"]}}
    return found


def _brain(result: AtlasResult, tell: Tell) -> LayerData:
    data, settings, kind = RunView(result.run.url, tell).own_moving()
    return data, {**settings, "name": "brain", "colormap": "gray"}, kind


def _borders(url: str, tell: Tell) -> LayerData:
    ((data, settings, kind),) = image_layers(storage.join(url, BORDERS), tell, labels=False)
    seen = {"colormap": "yellow", "contrast_limits": (0, 1), "interpolation2d": "nearest", "opacity": 0.6}
    return data, {**settings, **seen}, kind


def _cells(result: AtlasResult) -> LayerData | None:
    points = result.cell_places()
    if points is None:
        return None
    size = CELL_VOXELS * min(result.annotation.grid().spacing)
    data, where = dots(points, size)
    return data, {"name": "cells", "face_color": "#ff5ad2", "border_width": 0, **where}, "points"
