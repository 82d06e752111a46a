"""Something that is looked at now and then while a cluster is used."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("bigreg.cluster")

LOST_SECONDS = 5
"""A worker that is away for about three times as long is replaced."""


@contextmanager
def every(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Call `action` every so many seconds, in a thread that ends with the block."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            try:
                action()
            except Exception:  # the next time it may go well, and a cluster without upkeep may wait for ever
                log.exception("looking after the workers failed")

    thread = threading.Thread(target=repeat, name="bigreg-workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
