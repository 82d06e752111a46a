"""Workers that are processes of this machine, on its cores or on its GPUs."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import dask
from distributed import Client, LocalCluster

from .gpus import VISIBLE
from .settings import Cluster
from .upkeep import LOST_SECONDS, every
from .without_main import Keeper, forked, without_main
from .workers import ENVIRONMENT, GPU, cores_here, decoding, require_gpus, worker_count, worker_memory

log = logging.getLogger("bigreg.cluster")

IGNORE_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
"""What a worker runs first: Ctrl-C in a terminal reaches its whole process group, but only the client answers it."""


def local_client(settings: Cluster) -> AbstractContextManager[Client]:
    """A client of a cluster on this machine: one process a worker, nothing but loopback."""
    return _client(settings, require_gpus(settings) if settings.has_gpus else [])


def prepare(settings: Cluster) -> None:
    """Let what workers are forked from import what they need (3 s), while this process does something else."""
    if settings.kind == "local" and not settings.has_gpus:
        with forked(ENVIRONMENT):
            pass


def cuda_client(settings: Cluster) -> AbstractContextManager[Client]:
    """The same with workers that share the GPUs: each sees one, and decodes with its part of the cores."""
    count = worker_count(settings)
    gpus = require_gpus(settings)[:count]
    shared = "one worker each" if count == len(gpus) else f"{count} workers"
    log.warning("%d GPU%s of this machine, %s (cluster kind cuda)", len(gpus), "s" * (len(gpus) != 1), shared)
    return _client(settings, gpus)


class GpuCluster(LocalCluster):
    """Processes of this machine, each of which sees one of some GPUs: that which the fewest others have."""

    def __init__(self, gpus: list[str], copies: int, **options: Any) -> None:
        self._gpus, self._copies = gpus, copies
        super().__init__(n_workers=0, **options)

    def new_worker_spec(self) -> dict[Any, Any]:
        taken = Counter(spec["options"]["env"][VISIBLE] for spec in self.worker_spec.values())
        gpu = min(self._gpus, key=lambda g: taken[g])
        ((name, spec),) = super().new_worker_spec().items()
        env = {VISIBLE: gpu, **decoding(self._copies)}  # not pre-spawn: those stay in the environment of this process
        return {name: {**spec, "options": {**spec["options"], "env": env}}}


@contextmanager
def _client(settings: Cluster, gpus: list[str]) -> Iterator[Client]:
    count = worker_count(settings)

    def started() -> LocalCluster:
        options: dict[str, Any] = {
            "threads_per_worker": settings.in_hand,
            "memory_limit": worker_memory(settings),
            "host": "127.0.0.1",
            "dashboard_address": settings.dashboard,
            "local_directory": settings.local_directory,
            "silence_logs": "ERROR",
            "worker_class": Keeper,
        }
        with without_main():
            if not gpus:
                # What they are forked from has the environment of the time when it began.
                return LocalCluster(n_workers=settings.adaptive or count, env={**os.environ, **ENVIRONMENT}, **options)
            cluster = GpuCluster(gpus, max(1, cores_here() // count), resources={GPU: 1}, **options)
            cluster.scale(settings.adaptive or count)
            return cluster

    with (
        nullcontext() if gpus else forked(ENVIRONMENT),  # a fork of a process that has seen its GPU could not use it
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
