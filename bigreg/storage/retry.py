"""Patience: what fails for a reason that may pass is tried again, everything else is an error at once."""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

TRIES = 8
SECONDS = 120.0
"""No try begins later than this after the first."""
FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0

CODES = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
"""tensorstore's words for a busy server, a lost connection, a stale file handle, a timeout."""
NUMBERS = frozenset(
    (errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.ECONNRESET,
     errno.ECONNABORTED, errno.ECONNREFUSED, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.EHOSTDOWN,
     errno.EHOSTUNREACH)
)  # fmt: skip
"""The same of the operating system. A disk that breaks says EIO for good, a file server that is busy only for now."""


def patiently(what: str, action: Callable[[], T]) -> T:
    """The result of `action`; while it fails for a passing reason it is repeated, later and later, with a warning.

    Raises what the last try raised (ValueError is tensorstore's way to say anything), with the number of tries as its
    attribute `tries`. `action` must be harmless to repeat.
    """
    begin = time.monotonic()
    tries = 1
    while True:
        try:
            return action()
        except (ValueError, OSError) as error:
            # Workers that failed together do not come back together.
            delay = min(FIRST_DELAY * 2 ** (tries - 1), LONGEST_DELAY) * random.uniform(0.75, 1.25)
            if not passing(error) or tries == TRIES or time.monotonic() - begin + delay > SECONDS:
                error.tries = tries  # type: ignore[union-attr]  # what a reader of the error asks for
                raise
            logger.warning("'%s': %s; try %d of %d follows in %.1f s", what, error, tries + 1, TRIES, delay)
        time.sleep(delay)
        tries += 1


def passing(error: BaseException) -> bool:
    """Whether an error of tensorstore or of the system may be gone a moment later."""
    if isinstance(error, OSError):
        return isinstance(error, (ConnectionError, TimeoutError)) or error.errno in NUMBERS
    return error_code(error) in CODES or error_number(error) in NUMBERS


def error_code(error: BaseException) -> str:
    """tensorstore's word for an error, such as NOT_FOUND; empty where it says none."""
    found = re.match(r"([A-Z_]+): ", str(error))
    return found[1] if found else ""


def error_number(error: BaseException) -> int | None:
    """The operating system's number of an error, where it comes from there."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\[os_error_code='(\d+)'\]", str(error))
    return int(found[1]) if found else None


def error_reason(error: BaseException) -> str:
    """An error in words, without what only a programmer reads; and how often it was tried."""
    reason = str(error)
    if not isinstance(error, OSError):
        code = error_code(error)
        reason = reason.removeprefix(f"{code}: ").partition(" [")[0]
        if reason == "Unknown":
            reason = code.lower().replace("_", " ")
        if number := re.search(r"\[http_response_code='(\d+)'\]", str(error)):
            reason += f" (HTTP {number[1]})"
    tries = getattr(error, "tries", 1)
    return f"{reason} (tried {tries} times)" if tries > 1 else reason
