"""Runs the blocks of a stage as Dask tasks: a bounded number in flight, results recorded as they come."""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from distributed import Client, as_completed

from ..errors import BigregError, CorruptDataError, IncompleteError, InputError, OutputError
from ..geometry import Shape
from .context import context
from .store import Progress, RunStore, Status

IN_FLIGHT_PER_THREAD = 3


class Listener(Protocol):
    """Hears how a run goes on (the command line's progress bars, a napari panel, a test)."""

    def plan(self, stages: list[tuple[str, str, int]]) -> None:
        """All stages as (name, title, blocks); called again when more is known."""

    def stage(self, name: str, title: str, blocks: int, done: int) -> None:
        """A stage begins; `done` of its blocks are there from before."""

    def block(self, name: str, status: int, index: tuple) -> None:
        """A block has become done, blank or failed."""

    def finish(self, name: str) -> None:
        """A stage is complete."""


@dataclass(frozen=True)
class Stage:
    """One step of a run: `task(context, *arguments, index)` for every block index below `counts`.

    `name` is also the place in the run store of its status and metrics.
    """

    name: str
    title: str
    counts: Shape
    task: Callable[..., tuple[Status, dict[str, float]]]
    arguments: tuple = ()
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a block failed, in a form that travels: error class, message, traceback text."""

    kind: str
    message: str
    trace: str


def _execute(
    url: str, stamp: str, task: Callable, arguments: tuple, index: Shape
) -> tuple[Status, dict, Failure | None]:
    """On a worker: one block. One torch thread, so that sums are added in one order whatever the machine."""
    torch.set_num_threads(1)
    try:
        status, metrics = task(context(url, stamp), *arguments, index)
        return status, metrics, None
    except Exception as error:
        kind = type(error).__name__ if isinstance(error, BigregError) else "Exception"
        message = str(error) if isinstance(error, BigregError) else f"{type(error).__name__}: {error}"
        return Status.FAILED, {}, Failure(kind, message, traceback.format_exc())


KINDS = {cls.__name__: cls for cls in (InputError, OutputError, CorruptDataError)}


class Driver:
    """Runs stages one after the other on a Dask client and records them in the store."""

    def __init__(self, client: Client, store: RunStore, listener: Listener | None = None) -> None:
        self.client = client
        self.store = store
        self.listener = listener

    def open(self, stage: Stage) -> Progress:
        """Status and metrics of a stage, made if they are not there."""
        return Progress(self.store, stage.name, stage.counts, stage.metrics)

    def run(self, stage: Stage, stamp: str) -> Progress:
        """Run what is not done of a stage.

        Raises InputError, OutputError or CorruptDataError at once where a block meets one; IncompleteError at the end
        where blocks failed for another reason. What is done stays done in either case.
        """
        progress = self.open(stage)
        todo = [tuple(int(i) for i in row) for row in progress.unfinished()]
        if self.listener:
            total = int(progress.status.size)
            self.listener.stage(stage.name, stage.title, total, total - len(todo))
        begin = time.monotonic()
        failures = self._stream(stage, stamp, todo, progress)
        if failures:
            self._record(stage, failures)
        if todo:
            seconds = dict(self.store.attributes.get("seconds", {}))
            seconds[stage.name] = seconds.get(stage.name, 0.0) + time.monotonic() - begin
            self.store.update(seconds=seconds, updated=time.time())
        if self.listener:
            self.listener.finish(stage.name)
        return progress

    def _stream(self, stage: Stage, stamp: str, todo: list[Shape], progress: Progress) -> dict[Shape, Failure]:
        failures: dict[Shape, Failure] = {}
        pending = iter(todo)
        threads = max(1, sum(self.client.nthreads().values()))
        waiting: dict[Any, Shape] = {}

        def submit() -> Any:
            index = next(pending, None)
            if index is None or any(f.kind in KINDS for f in failures.values()):
                return None
            future = self.client.submit(
                _execute,
                self.store.url,
                stamp,
                stage.task,
                stage.arguments,
                index,
                pure=False,
                priority=-_order(stage, index),
            )
            waiting[future] = index
            progress.set(index, Status.RUNNING)
            return future

        first = [f for f in (submit() for _ in range(threads * IN_FLIGHT_PER_THREAD)) if f is not None]
        done = as_completed(first, loop=self.client.loop)
        try:
            for future in done:
                index = waiting.pop(future)
                if future.status == "finished":
                    status, metrics, failure = future.result()
                else:  # the worker died too often, most likely for want of memory
                    error = future.exception()
                    message = f"a worker died on this block ({error}); give workers more memory or make blocks smaller"
                    status, metrics, failure = Status.FAILED, {}, Failure("Exception", message, "")
                if failure is not None:
                    failures[index] = failure
                progress.set(index, status, metrics)
                if self.listener:
                    self.listener.block(stage.name, int(status), index)
                new = submit()
                if new is not None:
                    done.add(new)
        finally:
            for future, index in waiting.items():
                future.cancel()
                progress.set(index, Status.TODO)
            progress.flush()
        return failures

    def _record(self, stage: Stage, failures: dict[Shape, Failure]) -> None:
        errors = [
            {"stage": stage.name, "block": list(index), "message": f.message, "trace": f.trace}
            for index, f in sorted(failures.items())
        ]
        self.store.update(errors=errors[:100], state="incomplete", updated=time.time())
        failure = failures[min(failures)]
        kind = KINDS.get(failure.kind)
        if kind is not None:
            raise kind(failure.message)
        blocks = ", ".join(str(i) for i in sorted(failures)[:8])
        raise IncompleteError(
            f"{stage.title}: {len(failures)} of {math.prod(stage.counts)} blocks failed ({blocks}), first with "
            f"{failure.message}. What is done is kept; `bigreg resume {self.store.url}` tries again"
        )


def _order(stage: Stage, index: Shape) -> int:
    return (index[0] * stage.counts[1] + index[1]) * stage.counts[2] + index[2]


def new_stamp() -> str:
    """Names a state of the run's attributes for the workers' caches."""
    return f"{os.getpid()}-{time.monotonic_ns()}"
