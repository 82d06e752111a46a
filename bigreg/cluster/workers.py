"""What a worker has: memory, environment, and how many there will be."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
from importlib import import_module
from types import ModuleType

import psutil
from dask.utils import format_bytes, parse_bytes

from ..errors import ConfigError, ResourceError, named
from .existing import workers_there
from .gpus import smallest_card, visible_gpus
from .settings import Cluster

BASE_BYTES = 500 * 2**20
"""What a worker holds before it has read a voxel: the interpreter, torch, tensorstore."""

ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
}  # fmt: skip
"""Freed blocks are kept for the next patch: giving each one back to the system costs a third of the time. They are kept
in two places for all threads: with one for each thread what is kept grows for as long as the work goes on.

A worker that has most of its limit is not to pause, as Dask's are: what it holds is not data that others will take from
it, so it would never go on. Beyond its limit it is ended and its blocks are computed again.
"""


def decoding(copies: int) -> dict[str, str]:
    """What is set for a worker with a GPU: it decodes or encodes so many chunks at once, where `io.copies` is open."""
    return {"BIGREG_COPIES": str(copies)}


def give_back_memory() -> None:
    """Return to the system what was freed and kept, where the C library can (glibc)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return


UNLIMITED = 2**63 - 1

MOST_SHARING = 8
"""Workers that share a GPU at most, where nobody says how many. One process keeps it busy for a twentieth of the time:
the rest is Python, reading and writing. Each of them is to have so many cores, and so much memory of both kinds:
"""
CORES_SHARING = 2
BYTES_SHARING = 8 * 2**30

GPU = "GPU"
"""The Dask resource that a worker with a GPU has one of, and that its blocks share."""


def worker_count(settings: Cluster) -> int:
    """Workers of the cluster; for an existing one those that are there now. Raises ResourceError where none can be."""
    if settings.kind == "address":
        return len(workers_there(settings))
    if settings.kind == "cuda":
        gpus = len(require_gpus(settings))
        return settings.workers or gpus * _sharing(gpus)
    if settings.device == "cuda":
        return settings.workers or len(require_gpus(settings))
    return settings.workers or cores_here()


def _sharing(gpus: int) -> int:
    """Workers for each GPU of this machine where nobody says how many."""
    memory = min(smallest_card() or 0, psutil.virtual_memory().total // gpus)
    return max(1, min(MOST_SHARING, cores_here() // gpus // CORES_SHARING, memory // BYTES_SHARING))


def cores_here() -> int:
    """Cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_memory(settings: Cluster) -> int:
    """Memory limit of each worker in bytes; of an existing cluster, that of its smallest worker."""
    if settings.kind == "address":
        return min(worker["memory_limit"] or UNLIMITED for worker in workers_there(settings))
    if settings.memory_limit is not None:
        return parse_bytes(settings.memory_limit)
    return int(0.9 * psutil.virtual_memory().total / worker_count(settings))


def card_memory(settings: Cluster) -> int | None:
    """Bytes of a GPU's memory that each worker has where they share it; None where no GPU of this machine works."""
    if not settings.gpu_here:
        return None
    card = smallest_card()
    return card and card // -(-worker_count(settings) // len(require_gpus(settings)))


def require_memory(needed: int, settings: Cluster, *, smaller: str = ", or make blocks.core smaller") -> None:
    """Raise ResourceError where a worker cannot hold one block; `smaller` is how a block could be."""
    limit = worker_memory(settings)
    if needed > limit:
        more = {"address": "start its workers with more memory"}.get(
            settings.kind, "raise cluster.memory_limit, use fewer workers"
        )
        raise ResourceError(
            f"a block needs about {format_bytes(needed)} in a worker, whose limit is {format_bytes(limit)}; "
            f"{more}{smaller}"
        )


def extra(module: str, name: str, settings: Cluster) -> ModuleType:
    """A module that only some kinds need. Raises ConfigError that names what to install."""
    before = signal.getsignal(signal.SIGINT)
    try:
        found = import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"cluster.kind '{settings.kind}' needs {module.partition('.')[0].replace('_', '-')}, which cannot be "
            f"imported ({error}); install it with pip install 'bigreg[{name}]'"
        ) from error
    # dask-jobqueue makes Ctrl-C a silent exit when it is imported.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)
    return found


def require_gpus(settings: Cluster) -> list[str]:
    """The GPUs of this machine, as `visible_gpus` names them. Raises ResourceError where there is none."""
    there = visible_gpus()
    if not there:
        what = "kind 'cuda'" if settings.kind == "cuda" else "device 'cuda'"
        raise ResourceError(
            f"cluster.{what}: this machine shows no GPU to PyTorch; use {named('--cluster ', 'cluster kind ')}local, "
            "or install a build of PyTorch for its driver"
        )
    return there
