"""napari's reader of runs: `napari run.zarr`, drag and drop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import bigreg
from bigreg.errors import BigregError


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list] | None:
    """A function that gives the layers, where every path is a run; else None. Reads one small file of each."""
    paths = [path] if isinstance(path, str) else [str(p) for p in path]
    try:
        mine = bool(paths) and all(bigreg.is_run(str(p)) for p in paths)
    except BigregError:  # a place that no run can be at, or a folder whose metadata is broken
        return None
    return read if mine else None


def read(path: str | Sequence[str]) -> list:
    """The layers of one run or several."""
    from .open_model import RunView

    paths = [path] if isinstance(path, str) else [str(p) for p in path]
    return [layer for p in paths for layer in RunView(str(p)).layers()]
