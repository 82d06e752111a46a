"""Whose turn it is to compute, in a worker that has several blocks in hand.

One thread computes at a time, so that memory, the GPU and the caches serve one block; a thread that waits for storage
gives its turn away. So the next block is read and the last one written while another is computed, without a word of it
in any task.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_turn = threading.Lock()
_this = threading.local()


@contextmanager
def computing() -> Iterator[None]:
    """Wait for the turn of this process, and have it but while reading or writing. Not to be nested."""
    with _turn:
        _this.has_turn = True
        try:
            yield
        finally:
            _this.has_turn = False


@contextmanager
def waiting() -> Iterator[None]:
    """While a thread reads or writes: another may compute. Does nothing outside `computing`."""
    if not getattr(_this, "has_turn", False):
        yield
        return
    _this.has_turn = False
    _turn.release()
    try:
        yield
    finally:
        _turn.acquire()
        _this.has_turn = True
