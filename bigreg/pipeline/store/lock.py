"""One process a run: whoever works on a run says so in it, and goes on saying so.

The file `lock.json` of a run names host, process and the time of its last sign of life. Another process is refused
while that is fresh. A process that died on this very host is found out at once; of another host, when its sign of life
has become too old.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from ...errors import OutputError
from ...storage import Claim

logger = logging.getLogger(__name__)

BEAT_SECONDS = 15.0
STALE_SECONDS = 120.0
"""Eight signs of life missed: longer than a file server's pause, shorter than a person's."""


@contextmanager
def working_on(url: str) -> Iterator[None]:
    """Hold a run while the block runs. Raises OutputError where somebody else works on it."""
    claim = Claim(url, "lock.json")
    me = {"host": socket.gethostname(), "process": os.getpid(), "started": psutil.Process().create_time()}
    other = claim.read()
    if other is not None and alive(other):
        raise OutputError(
            f"'{url}' is in use by process {other.get('process')} on {other.get('host')}, last seen "
            f"{max(0.0, time.time() - other.get('seen', 0)):.0f} s ago; wait for it or stop it (a process that is "
            f"gone is forgotten after {STALE_SECONDS:.0f} s)"
        )
    if not claim.write({**me, "seen": time.time()}):
        raise OutputError(f"'{url}' was taken by another process just now; see `bigreg status {url}`")
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            try:
                if not claim.write({**me, "seen": time.time()}):
                    logger.error("'%s' is no longer held by this process; another process has taken it over", url)
                    return
            except OutputError as error:  # the disk may be full for a while: the work itself says so, louder
                logger.warning("no heartbeat could be written: %s", error)

    thread = threading.Thread(target=beat, name="bigreg-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        try:
            claim.write(None)
        except OutputError as error:
            logger.warning("the lock could not be removed: %s", error)


def at_work(url: str) -> dict | None:
    """Who works on a run, as its lock says: host, process, seen (unix seconds); None where nobody does."""
    holder = Claim(url, "lock.json").read()
    return holder if holder is not None and alive(holder) else None


def alive(holder: dict) -> bool:
    """Whether the process that a lock names may still be at work."""
    if holder.get("host") == socket.gethostname():
        try:
            there = psutil.Process(int(holder["process"])).create_time()
        except (psutil.Error, KeyError, TypeError, ValueError):
            return False
        return abs(there - float(holder.get("started", there))) < 1.0
    return time.time() - float(holder.get("seen", 0.0)) < STALE_SECONDS
