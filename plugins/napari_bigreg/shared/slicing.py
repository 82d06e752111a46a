"""Slices of terabytes, perhaps from far away, that are read in a thread: napari's own way to do that, made safe.

napari hands a slice that was read to its window through superqt, which makes a Future for it that nobody waits for. It
is freed by the thread that read the slice, while it is still connected to a signal of Qt. There PySide 6 lets go of
Python's lock and holds one of Qt's; the window, if it connects something at that moment, takes them in the other order,
and both wait for ever: at one opening of a run in some forty. The tests of napari meet it too (napari/napari#8145).
Here such a Future lives until the window's thread is done with it.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future
from typing import Any

_waiting: set[Future] = set()
_done: deque[Future] = deque(maxlen=64)


class Kept(Future):
    """Freed by the thread that sets its result, some results later: by then the signal is gone to which it listened."""

    def __init__(self) -> None:
        super().__init__()
        _waiting.add(self)

    def set_result(self, result: Any) -> None:
        super().set_result(result)
        _waiting.discard(self)
        _done.append(self)


def read_in_threads() -> None:
    """In this process, from now on; before there is a viewer. NAPARI_ASYNC=0 in the environment says no."""
    from superqt.utils import _ensure_thread

    if hasattr(_ensure_thread, "Future"):  # else superqt has changed, and napari's default is the safe choice
        _ensure_thread.Future = Kept  # type: ignore[misc]  # the one place where superqt lets it be chosen
        os.environ.setdefault("NAPARI_ASYNC", "1")
