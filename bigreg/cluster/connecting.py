"""One way into every kind of cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distributed import Client

from .existing import address_client
from .jobs import jobs_client
from .kubernetes import kubernetes_client
from .local import cuda_client, local_client
from .settings import JOBS, Cluster

_OPEN = {
    "local": local_client,
    "cuda": cuda_client,
    "kubernetes": kubernetes_client,
    "address": address_client,
}


@contextmanager
def client(settings: Cluster, stopped: Callable[[], None] | None = None) -> Iterator[Client]:
    """A client of the cluster that is described. What was started for it ends with it.

    stopped   asked now and then while jobs wait in a queue, for days perhaps; what it raises ends the waiting

    Raises ConfigError where an extra is not installed, ResourceError where the cluster cannot be had.
    """
    opening = jobs_client(settings, stopped) if settings.kind in JOBS else _OPEN[settings.kind](settings)
    with opening as opened:
        yield opened
