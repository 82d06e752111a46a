"""A Dask cluster from configuration: on this machine, of batch jobs, on Kubernetes, or one that is there already.

`client(settings)` is a context manager and the same for all kinds. A worker is one process, which
computes one block at a time whatever it has in hand.
"""

from typing import TYPE_CHECKING, Any

from .settings import HERE, JOBS, KINDS, Cluster

if TYPE_CHECKING:  # what _WHERE imports on first use, for type checkers
    from .connecting import client
    from .escalation import escalate
    from .gpus import default_cluster, default_kind, visible_gpus
    from .local import local_client, prepare
    from .workers import BASE_BYTES, GPU, card_memory, give_back_memory, require_memory, worker_count, worker_memory

_WHERE = {
    "BASE_BYTES": "workers",
    "GPU": "workers",
    "card_memory": "workers",
    "client": "connecting",
    "default_cluster": "gpus",
    "default_kind": "gpus",
    "escalate": "escalation",
    "give_back_memory": "workers",
    "local_client": "local",
    "prepare": "local",
    "require_memory": "workers",
    "visible_gpus": "gpus",
    "worker_count": "workers",
    "worker_memory": "workers",
}
__all__ = [
    "BASE_BYTES",
    "GPU",
    "HERE",
    "JOBS",
    "KINDS",
    "Cluster",
    "card_memory",
    "client",
    "default_cluster",
    "default_kind",
    "escalate",
    "give_back_memory",
    "local_client",
    "prepare",
    "require_memory",
    "visible_gpus",
    "worker_count",
    "worker_memory",
]


def __getattr__(name: str) -> Any:
    """Import on first use: a configuration is checked without waiting for Dask."""
    if name not in _WHERE:
        raise AttributeError(f"module 'bigreg.cluster' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
