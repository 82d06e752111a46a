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
_room = threading.Condition()
_within = 0  # blocks in hand that are not waiting to be alone
_wanted = 0  # that wait to be alone, or are
_alone = False


@contextmanager
def computing(*, alone: bool = False) -> Iterator[None]:
    """Wait for the turn of this process, and have it but while reading or writing. Not to be nested.

    alone   wait until no other block is in hand, and let none begin meanwhile: all memory is for this one
    """
    _enter(alone)
    try:
        with _turn:
            _this.has_turn = True
            try:
                yield
            finally:
                _this.has_turn = False
    finally:
        _leave(alone)


def _enter(alone: bool) -> None:
    global _within, _wanted, _alone
    with _room:
        if alone:
            _wanted += 1
            _room.wait_for(lambda: _within == 0 and not _alone)
            _alone = True
        else:
            _room.wait_for(lambda: _wanted == 0)
            _within += 1


def _leave(alone: bool) -> None:
    global _within, _wanted, _alone
    with _room:
        if alone:
            _wanted, _alone = _wanted - 1, False
        else:
            _within -= 1
        _room.notify_all()


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
