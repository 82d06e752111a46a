"""What a path holds that napari is to show: a run, a result of `bigreg atlas`, or an image."""

from __future__ import annotations

from collections.abc import Callable

import bigreg
from bigreg.atlases import is_atlas_result
from bigreg.errors import BigregError

from .atlas_layers import atlas_layers
from .image_layers import image_layers, is_image
from .lazy import Tell, warn
from .open_model import LayerData, RunView


def is_known(path: str) -> bool:
    """Whether `layers_at` knows what to show; reads metadata alone."""
    return _holds(bigreg.is_run, path) or _holds(is_atlas_result, path) or is_image(path)


def layers_at(path: str, tell: Tell = warn) -> list[LayerData]:
    """The layers of what is there, those below first. Raises InputError where it is none of these."""
    if _holds(bigreg.is_run, path):
        return RunView(path, tell).layers()
    if _holds(is_atlas_result, path):
        return atlas_layers(path, tell)
    return image_layers(path, tell)


def _holds(what: Callable[[str], bool], path: str) -> bool:
    try:
        return what(path)
    except BigregError:  # a place that none can be at, or a folder whose metadata is broken
        return False
