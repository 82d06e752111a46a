"""napari's reader of runs: `napari run.zarr`, drag and drop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .shared.threads import awaited


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list] | None:
    """A function that gives the layers, where every path is a run; else None. Reads one small file of each."""
    return read if awaited(lambda: _are_runs(_paths(path))) else None


def read(path: str | Sequence[str]) -> list:
    """The layers of one run or several."""
    return awaited(lambda: _layers(_paths(path)))


def _paths(path: str | Sequence[str]) -> list[str]:
    return [path] if isinstance(path, str) else [str(p) for p in path]


# What they need is imported by them, which is in a thread: the first time it takes seconds.


def _are_runs(paths: list[str]) -> bool:
    import bigreg
    from bigreg.errors import BigregError

    try:
        return bool(paths) and all(bigreg.is_run(p) for p in paths)
    except BigregError:  # a place that no run can be at, or a folder whose metadata is broken
        return False


def _layers(paths: list[str]) -> list:
    from .shared.open_model import RunView

    return [layer for p in paths for layer in RunView(p).layers()]
