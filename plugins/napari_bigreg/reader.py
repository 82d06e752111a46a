"""napari's reader of runs and images: `napari run.zarr`, drag and drop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .shared.threads import awaited


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list] | None:
    """A function that gives the layers, where every path is a run or an image; else None. Reads metadata alone."""
    return read if awaited(lambda: _are_known(_paths(path))) else None


def read(path: str | Sequence[str]) -> list:
    """The layers of runs and images."""
    return awaited(lambda: _layers(_paths(path)))


def _paths(path: str | Sequence[str]) -> list[str]:
    return [path] if isinstance(path, str) else [str(p) for p in path]


# What they need is imported by them, which is in a thread: the first time it takes seconds.


def _is_run(path: str) -> bool:
    import bigreg
    from bigreg.errors import BigregError

    try:
        return bigreg.is_run(path)
    except BigregError:  # a place that no run can be at, or a folder whose metadata is broken
        return False


def _are_known(paths: list[str]) -> bool:
    from .shared.image_layers import is_image

    return bool(paths) and all(_is_run(p) or is_image(p) for p in paths)


def _layers(paths: list[str]) -> list:
    from .shared.image_layers import image_layers
    from .shared.open_model import RunView

    return [layer for p in paths for layer in (RunView(p).layers() if _is_run(p) else image_layers(p))]
