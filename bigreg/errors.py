"""What can go wrong, one class a kind; the command line turns each into an exit status of its own.

Every message names the thing, the value and the remedy, in the language of whoever reads it (see `named`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_flags = False


@contextmanager
def naming_flags() -> Iterator[None]:
    """Messages are read in the command line for so long: they name its flags."""
    global _flags
    before, _flags = _flags, True
    try:
        yield
    finally:
        _flags = before


def named(flag: str, keyword: str) -> str:
    """What a reader has to give, as a message names it: the command line's flag, or the keyword in Python."""
    return flag if _flags else keyword


class BigregError(Exception):
    """Base of all errors that bigreg raises on purpose."""

    exit_status = 1


class InputError(BigregError):
    """An image that cannot be used: missing, 2-D, wrong axes, complex, without spacing, blank, NaN."""

    exit_status = 3


class SpacingError(InputError):
    """An image of which no voxel size is known; `shape` (z, y, x) is."""

    def __init__(self, message: str, shape: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.shape = shape


class StartError(InputError):
    """The global start is too doubtful; the message shows the best few and says how to choose one."""


class ConfigError(BigregError):
    """A configuration value that makes no sense or does not exist."""

    exit_status = 4


class OutputError(BigregError):
    """A place that cannot be written: it exists already, is read-only, or the disk is full."""

    exit_status = 5


class CorruptDataError(BigregError):
    """A chunk or file whose bytes cannot be decoded; the message names it.

    url, box    the array and the box (start, stop) of the chunk, where it is one of an array
    """

    exit_status = 6

    def __init__(
        self, message: str, *, url: str | None = None, box: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    ) -> None:
        super().__init__(message)
        self.url = url
        self.box = box


class ResourceError(BigregError):
    """The machine or cluster is too small for the plan (memory limit below one block, for instance)."""

    exit_status = 7


class IncompleteError(BigregError):
    """The run ended with blocks that failed; completed blocks are kept; `bigreg resume` continues."""

    exit_status = 8


class StoppedError(BigregError):
    """Somebody asked the run to stop; completed blocks are kept; `bigreg resume` continues. As after Ctrl-C."""

    exit_status = 130


class ClusterError(BigregError):
    """The scheduler or the connection to it is gone; completed blocks are kept; `bigreg resume` continues."""

    exit_status = 9


class DivergedError(BigregError):
    """The loss of a training is no number any more; the message says since when."""

    exit_status = 10


class VerdictError(BigregError):
    """The run is finished, but its verdict is one on which `--fail-on` was to fail; the result is kept."""

    exit_status = 11
