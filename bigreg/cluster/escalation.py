"""Workers with more memory, if a block ends every worker that takes it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from dask.utils import format_bytes, parse_bytes
from distributed import Client

from .settings import Cluster

log = logging.getLogger("bigreg.cluster")

CLOSING_SECONDS = 60.0
"""How long jobs may take to be cancelled."""

_ways: WeakKeyDictionary[Client, Escalation] = WeakKeyDictionary()


def escalate(client: Client) -> bool:
    """Replace the workers of a client by some with twice the memory; False where that cannot be, or not once more."""
    way = _ways.get(client)
    return way is not None and way.double()


class Escalation:
    """Submits the jobs of a dask-jobqueue cluster again with twice the memory, at most `cluster.escalate` times.

    options   what jobs of some settings are made of
    """

    def __init__(self, cluster: Any, settings: Cluster, options: Callable[[Cluster], dict[str, Any]]) -> None:
        self.cluster = cluster
        self.settings = settings
        self.options = options
        self.left = settings.escalate

    def double(self) -> bool:
        if self.left == 0:
            return False
        self.left -= 1
        assert self.settings.memory_limit is not None, "settings of this kind have one"
        memory = 2 * parse_bytes(self.settings.memory_limit)
        self.settings = self.settings.model_copy(update={"memory_limit": str(memory)})
        log.warning(
            "a block ended its workers for lack of memory; submitting jobs with %s per worker", format_bytes(memory)
        )
        self.cluster.new_spec["options"].update(self.options(self.settings))
        self.cluster.scale(0)
        end = time.monotonic() + CLOSING_SECONDS
        while self.cluster.workers and time.monotonic() < end:
            time.sleep(0.1)
        if self.settings.adaptive is None:
            self.cluster.scale(self.settings.workers)
        return True


@contextmanager
def escalating(client: Client, way: Escalation) -> Iterator[None]:
    """`escalate` knows what to do for a client."""
    _ways[client] = way
    try:
        yield
    finally:
        _ways.pop(client, None)
