"""napari's reader of runs, results of `bigreg atlas` and images: `napari run.zarr`, drag and drop."""

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


def _are_known(paths: list[str]) -> bool:
    from .shared.opened import is_known

    return bool(paths) and all(map(is_known, paths))


def _layers(paths: list[str]) -> list:
    from .shared.opened import layers_at

    return [layer for path in paths for layer in layers_at(path)]
