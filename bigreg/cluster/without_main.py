"""Workers that start without the script of whoever started them, and that find imported what they need.

A process that is spawned imports the script of its parent again, under another name. A script that registers without
asking for `__name__ == "__main__"` would register in each of its workers. What workers do is all in modules, so they
need no script.

Those modules take a worker 3 s and 360 MB. On Linux a worker is forked from a process that has imported them and done
nothing else (0.1 s, and 20 MB that are its own); never from this one, whose threads a fork would leave half-way.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

import dask
from distributed import Nanny
from distributed.utils import get_mp_context

IMPORTED = [
    "distributed.nanny", "distributed.worker", "bigreg.pipeline.schedule.answers", "bigreg.pipeline.tasks.estimate",
    "bigreg.pipeline.tasks.fields", "bigreg.pipeline.tasks.warp",
]  # fmt: skip
"""By name, since they are above this module."""
_lock = threading.Lock()
_hidden: dict[str, Any] = {}
_count = 0


@contextmanager
def without_main() -> Iterator[None]:
    """Processes that are spawned meanwhile do not import the script."""
    global _count
    main = sys.modules["__main__"]
    with _lock:
        _count += 1
        if _count == 1:
            _hidden.update({name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)})
            main.__spec__ = None
            vars(main).pop("__file__", None)
    try:
        yield
    finally:
        with _lock:
            _count -= 1
            if _count == 0:
                vars(main).update(_hidden)
                _hidden.clear()


@contextmanager
def forked(environment: dict[str, str]) -> Iterator[None]:
    """Workers that are started meanwhile are forked, where that is safe; `environment` is that of all of them."""
    if sys.platform != "linux":  # elsewhere system libraries do not bear it
        yield
        return
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(IMPORTED)
        with _environment(environment):
            forkserver.ensure_running()  # it reads some of these when it starts
        yield


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Keeper(Nanny):
    """Starts its worker so, also when it starts it again."""

    async def instantiate(self) -> Any:
        with without_main():
            return await super().instantiate()
