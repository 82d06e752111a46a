"""What runs on a worker for one block, and what comes back of it."""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from distributed import Worker, get_worker

from ... import storage
from ...cluster import GPU, give_back_memory
from ...device import computing_on, empty_cache, is_broken, is_out_of_memory, smaller_pieces
from ...errors import BigregError, CorruptDataError, InputError, OutputError
from ...geometry import Shape
from ..store.store import Status

log = logging.getLogger("bigreg.worker")

Opener = Callable[[str, str], Any]
"""What a task is given, of the url of a store and the stamp of its state."""

FATAL = (InputError, OutputError, CorruptDataError)


@dataclass(frozen=True)
class Failure:
    """Why a block failed, in a form that travels. `error`: what was raised, where bigreg raised it on purpose."""

    message: str
    trace: str = ""
    error: BigregError | None = None

    @property
    def fatal(self) -> bool:
        """Whether other blocks will most likely meet the same."""
        return isinstance(self.error, FATAL)


@dataclass(frozen=True)
class Answer:
    """What comes back of a block.

    worker     where it ran
    halvings   how often the pieces it was computed in were halved, since memory ran out (see `bigreg.device`)
    unfit      why the worker can compute no more, where it cannot: the block is another's then
    """

    status: Status
    metrics: dict[str, float]
    failure: Failure | None = None
    worker: str = ""
    halvings: int = 0
    unfit: str = ""


def told(failures: Mapping[tuple[str, Shape], Failure], accepted: bool = False) -> list[dict]:
    """Failures, by stage and block, as the run's attribute `errors` lists them."""
    return [
        {"stage": name, "block": list(index), "message": f.message, "trace": f.trace, "accepted": accepted}
        for (name, index), f in failures.items()
    ]


ATTEMPTS = ((False, 0), (True, 0), (True, 1), (True, 2), (True, 3))
"""Where memory runs out a block is tried again: alone in its worker, then in pieces that are halved once, twice, ..."""


def execute(opener: Opener, url: str, stamp: str, task: Callable, arguments: tuple, index: Shape) -> Answer:
    """On a worker: one block. One torch thread, so that sums are added in one order whatever the machine.

    A worker that was given a GPU computes on it, any other on the CPU. One whose GPU can be used no more ends its
    process, and its nanny starts another; where it has none it says that it is unfit.
    """
    torch.set_num_threads(1)
    own = get_worker()
    worker, device = own.address, "cuda" if GPU in own.state.total_resources else "cpu"
    failure = Failure("memory ran out")
    for alone, halvings in ATTEMPTS:
        try:
            with storage.computing(alone=alone), computing_on(device), smaller_pieces(halvings):
                if alone:
                    give_back_memory()
                    empty_cache()
                _begin(task, own_process=own.nanny is not None)
                status, metrics = task(opener(url, stamp), *arguments, index)
                return Answer(status, metrics, worker=worker, halvings=halvings)
        except BigregError as error:
            return Answer(Status.FAILED, {}, Failure(str(error), traceback.format_exc(), error), worker)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            if is_broken(error):
                _end_process(own, told)
                return Answer(Status.FAILED, {}, Failure(told, traceback.format_exc()), worker, unfit=told)
            failure = Failure(told, traceback.format_exc())
            if not is_out_of_memory(error):
                return Answer(Status.FAILED, {}, failure, worker)
            log.warning("block %s: %s; trying again with all the memory of this worker", index, told)
    message = f"{failure.message}; even in pieces of an eighth along each axis: give workers more memory"
    return Answer(Status.FAILED, {}, Failure(message, failure.trace), worker)


def _end_process(worker: Worker, reason: str) -> None:
    """End this process, if it is a worker's own: its nanny starts another, and Dask gives its blocks to others."""
    if worker.nanny is not None:
        print(f"bigreg: this worker ends, as its GPU can be used no more ({reason})", file=sys.stderr, flush=True)
        os._exit(1)


_begun: set[str] = set()


def _begin(task: Callable, *, own_process: bool) -> None:
    """Before the first block of a kind: what blocks of other kinds have left is given back, as it fits these badly.

    Looking for what was left takes a tenth of a second for what was imported alone. In a process of a worker's own that
    stays to the end and is looked through once.
    """
    kind = getattr(task, "__qualname__", type(task).__name__)
    if kind not in _begun:
        first = not _begun
        _begun.add(kind)
        give_back_memory()
        if first and own_process:
            gc.freeze()
