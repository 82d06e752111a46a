"""Stopping a run from another process, on whatever machine.

The request is a small file `stop.json` in the run, which the process that works on it looks for every few seconds. So
the two need no connection: whoever can write into the run can stop it, over a network file system or on S3.
"""

from __future__ import annotations

import logging
import os
import socket
import time

from ... import storage
from ...errors import InputError, OutputError, StoppedError
from .lock import at_work

logger = logging.getLogger(__name__)
NAME = "stop.json"


def request_stop(url: str) -> dict:
    """Ask whoever works on a run to stop; returns who that is. Raises OutputError where nobody does or can be told."""
    holder = at_work(url)
    if holder is None:
        raise OutputError(f"'{url}' is not running; see `bigreg status {url}`")
    claim = storage.Claim(url, NAME)
    claim.read()
    claim.write({"host": socket.gethostname(), "process": os.getpid(), "asked": time.time()})
    return holder


def forget_request(url: str) -> None:
    """Whoever begins to work on a run begins without requests of before."""
    claim = storage.Claim(url, NAME)
    if claim.read() is not None:
        claim.write(None)


def check(url: str) -> None:
    """Raise StoppedError where somebody has asked a run to stop."""
    try:
        asked = storage.Claim(url, NAME).read()
    except InputError as error:  # whether the place answers is for those to say who need it
        logger.warning("could not see whether the run should stop: %s", error)
        return
    if asked is not None:
        raise StoppedError(
            f"'{url}' was stopped by process {asked.get('process')} on {asked.get('host')}; completed blocks are kept; "
            f"continue with `bigreg resume {url}`"
        )
