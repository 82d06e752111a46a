"""A Dask cluster from configuration."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import psutil
from dask.utils import format_bytes, parse_bytes
from distributed import Client, LocalCluster

from .config import Cluster
from .errors import ConfigError, ResourceError

BASE_BYTES = 500 * 2**20
"""What a worker holds before it has read a voxel: the interpreter, torch, tensorstore."""


LOST_SECONDS = 5
"""A worker that is away for about three times as long is replaced."""

IGNORE_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
"""What a worker runs first: Ctrl-C in a terminal reaches its whole process group, but only the client answers it."""


def worker_memory(settings: Cluster) -> int:
    """Memory limit of each local worker in bytes."""
    if settings.memory_limit is not None:
        try:
            return parse_bytes(settings.memory_limit)
        except ValueError as error:
            raise ConfigError(f"cluster.memory_limit {settings.memory_limit!r} is not a size such as 4GB") from error
    return int(0.9 * psutil.virtual_memory().total / worker_count(settings))


def worker_count(settings: Cluster) -> int:
    return settings.workers or len(psutil.Process().cpu_affinity() or [0])


def require_memory(needed: int, settings: Cluster) -> None:
    """Raise ResourceError where a worker cannot hold one block."""
    limit = worker_memory(settings)
    if needed > limit:
        raise ResourceError(
            f"a block needs about {format_bytes(needed)} in a worker, whose limit is {format_bytes(limit)}; "
            "raise cluster.memory_limit, use fewer workers, or make blocks.core smaller"
        )


@contextmanager
def local_client(settings: Cluster) -> Iterator[Client]:
    """A client of a cluster on this machine: one process a worker, one thread each, dashboard on loopback only."""
    # Freed blocks are kept for the next patch: giving each one back to the system costs a third of the time.
    environment = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30), "OMP_NUM_THREADS": "1"}
    with (
        dask.config.set(
            {
                "distributed.nanny.pre-spawn-environ": environment,
                "distributed.worker.preload": [IGNORE_CTRL_C],
                "distributed.deploy.lost-worker-timeout": f"{LOST_SECONDS}s",
            }
        ),
        LocalCluster(
            n_workers=worker_count(settings),
            threads_per_worker=1,
            memory_limit=worker_memory(settings),
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs="ERROR",
        ) as cluster,
        Client(cluster) as client,
        _kept_up(cluster, worker_count(settings)),
    ):
        yield client


@contextmanager
def _kept_up(cluster: LocalCluster, count: int) -> Iterator[None]:
    """Replace workers that stay away.

    A worker that dies is started again by its nanny. But one that dies while it starts takes the nanny with it, and a
    cluster without workers would wait for ever.
    """
    ended = threading.Event()

    def watch() -> None:
        short = 0
        while not ended.wait(LOST_SECONDS):
            short = short + 1 if len(cluster.scheduler_info["workers"]) < count else 0
            if short >= 3:
                cluster.scale(count)
                short = 0

    thread = threading.Thread(target=watch, name="bigreg-workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
