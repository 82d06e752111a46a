"""Workers that are processes of this machine, on its cores or on its GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster

from .settings import Cluster
from .upkeep import LOST_SECONDS, every
from .without_main import Keeper, without_main
from .workers import ENVIRONMENT, GPU, extra, worker_count, worker_memory

IGNORE_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
"""What a worker runs first: Ctrl-C in a terminal reaches its whole process group, but only the client answers it."""


def local_client(settings: Cluster) -> AbstractContextManager[Client]:
    """A client of a cluster on this machine: one process a worker, nothing but loopback."""
    return _client(settings, LocalCluster)


def cuda_client(settings: Cluster) -> AbstractContextManager[Client]:
    """The same with one worker a GPU, which sees no other."""
    # The count first: that there is no GPU is a better message than that something is not installed.
    worker_count(settings)
    return _client(settings, extra("dask_cuda", "cuda", settings).LocalCUDACluster)


@contextmanager
def _client(settings: Cluster, kind: type[LocalCluster]) -> Iterator[Client]:
    count = worker_count(settings)
    options: dict[str, Any] = {"worker_class": Keeper} if kind is LocalCluster else {}

    def started() -> LocalCluster:
        with without_main():
            return kind(
                n_workers=settings.adaptive or count,
                threads_per_worker=settings.in_hand,
                resources={GPU: 1} if settings.has_gpus else None,
                memory_limit=worker_memory(settings),
                host="127.0.0.1",
                dashboard_address=settings.dashboard,
                local_directory=settings.local_directory,
                silence_logs="ERROR",
                **options,
            )

    with (
        dask.config.set(
            {
                "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
                "distributed.worker.preload": [IGNORE_CTRL_C],
                "distributed.worker.memory.pause": False,  # see ENVIRONMENT
                "distributed.deploy.lost-worker-timeout": f"{LOST_SECONDS}s",
            }
        ),
        started() as cluster,
        Client(cluster) as client,
        every(LOST_SECONDS, _replace_lost(cluster)),
    ):
        if settings.adaptive is not None:
            cluster.adapt(minimum=settings.adaptive, maximum=count)
        yield client


def _replace_lost(cluster: LocalCluster) -> Callable[[], None]:
    """Replace workers that stay away.

    A worker that dies is started again by its nanny. But one that dies while it starts takes the nanny with it, and a
    cluster without workers would wait for ever.
    """
    short = 0

    def look() -> None:
        nonlocal short
        wanted = len(cluster.plan)
        short = short + 1 if len(cluster.scheduler_info["workers"]) < wanted else 0
        if short >= 3:
            cluster.scale(wanted)
            short = 0

    return look
