"""One way into every kind of cluster."""

from __future__ import annotations

from collections.abc import Iterator
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
    **dict.fromkeys(JOBS, jobs_client),
}


@contextmanager
def client(settings: Cluster) -> Iterator[Client]:
    """A client of the cluster that is described. What was started for it ends with it.

    Raises ConfigError where an extra is not installed, ResourceError where the cluster cannot be had.
    """
    with _OPEN[settings.kind](settings) as opened:
        yield opened
