"""A Dask cluster from configuration: on this machine, of batch jobs, on Kubernetes, or one that is there already.

`client(settings)` is a context manager and the same for all kinds. A worker is one process, which
computes one block at a time whatever it has in hand.
"""

from .client import client
from .escalation import escalate
from .gpus import default_cluster, default_kind, visible_gpus
from .local import local_client
from .settings import HERE, JOBS, KINDS, Cluster
from .workers import BASE_BYTES, GPU, give_back_memory, require_memory, worker_count, worker_memory

__all__ = [
    "BASE_BYTES",
    "GPU",
    "HERE",
    "JOBS",
    "KINDS",
    "Cluster",
    "client",
    "default_cluster",
    "default_kind",
    "escalate",
    "give_back_memory",
    "local_client",
    "require_memory",
    "visible_gpus",
    "worker_count",
    "worker_memory",
]
