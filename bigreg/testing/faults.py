"""Storage that fails on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from .. import storage

PASSING = "UNKNOWN: Error reading local file: Input/output error [os_error_code='5']"
"""What a busy file server says: it is tried again."""
LASTING = "PERMISSION_DENIED: Error reading local file: Permission denied [os_error_code='13']"
"""What ends a run."""

Decide = Callable[[str, int], str | None]


def never(kind: str, number: int) -> str | None:
    """Nothing fails."""
    return None


def at(number: int, message: str = LASTING, *, kind: str = "write") -> Decide:
    """Every operation of a kind ("read" or "write") fails from `number` on, counted from 1."""
    return lambda k, n: message if k == kind and n >= number else None


class Faults:
    """Counts what is read from arrays and written to them in this process, and lets it fail.

    counts   operations so far, by kind; failed: how many of them were made to fail
    decide   (kind, number) -> the message of a failure, or None; may be replaced at any time
    """

    def __init__(self, decide: Decide = never) -> None:
        self.counts = {"read": 0, "write": 0}
        self.failed = 0
        self.decide = decide

    def counted(self, kind: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def act(array: storage.Array, *arguments: Any) -> Any:
            self.counts[kind] += 1
            message = self.decide(kind, self.counts[kind])
            if message:
                self.failed += 1
                raise ValueError(message)
            return action(array, *arguments)

        return act


@contextmanager
def failing_store(decide: Decide = never) -> Iterator[Faults]:
    """Context in which bigreg's arrays fail where `decide` says so: `failing_store(at(7))`: from the seventh write."""
    faults = Faults(decide)
    with (
        mock.patch.object(storage.Array, "_load", faults.counted("read", storage.Array._load)),
        mock.patch.object(storage.Array, "_save", faults.counted("write", storage.Array._save)),
    ):
        yield faults
