"""Runs the blocks of stages as Dask tasks: a bounded number in flight, results recorded as they come."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from distributed import Client, get_worker

from .. import storage
from ..cluster import GPU
from ..errors import BigregError, ClusterError, CorruptDataError, IncompleteError, InputError, OutputError
from ..geometry import Shape
from .context import context
from .flow import Flow, Stage
from .store import Progress, RunStore, Status

QUEUED = 2
"""Tasks that wait at a worker for each that runs there."""
SPAN = 8
"""Neighbouring blocks that one worker is given, since they share what they read."""
ANSWER_SECONDS = 20.0
"""An answer is a few numbers: one that does not come in this time is lost."""
CENSUS_SECONDS = 2.0
"""How old what is known of the workers may be."""


class Listener(Protocol):
    """Hears how a run goes on (the command line's progress bars, a napari panel, a test)."""

    def plan(self, stages: list[tuple[str, str, int]]) -> None:
        """All stages as (name, title, blocks); called again when more is known."""

    def stage(self, name: str, title: str, blocks: int, done: int) -> None:
        """A stage begins; `done` of its blocks are there from before. Several may go on at the same time."""

    def block(self, name: str, status: int, index: tuple) -> None:
        """A block has become done, blank or failed."""

    def finish(self, name: str) -> None:
        """A stage is complete, or ends for now."""


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
    """What comes back of a block. `worker`: where it ran."""

    status: Status
    metrics: dict[str, float]
    failure: Failure | None = None
    worker: str = ""


def _execute(url: str, stamp: str, task: Callable, arguments: tuple, index: Shape) -> Answer:
    """On a worker: one block. One torch thread, so that sums are added in one order whatever the machine."""
    torch.set_num_threads(1)
    worker = get_worker().address
    try:
        with storage.computing():
            return Answer(*task(context(url, stamp), *arguments, index), worker=worker)
    except BigregError as error:
        return Answer(Status.FAILED, {}, Failure(str(error), traceback.format_exc(), error), worker)
    except Exception as error:
        return Answer(Status.FAILED, {}, Failure(f"{type(error).__name__}: {error}", traceback.format_exc()), worker)


class Driver:
    """Runs stages on a Dask client and records them in the store.

    expected        workers that are on their way, where the cluster starts them by need
    accept_failed   blocks that fail are blank, in stages that can do without them
    """

    def __init__(
        self,
        client: Client,
        store: RunStore,
        listener: Listener | None = None,
        *,
        expected: int = 0,
        accept_failed: bool = False,
    ) -> None:
        self.client = client
        self.store = store
        self.listener = listener
        self.expected = expected
        self.accept_failed = accept_failed
        self.stopped = threading.Event()

    @contextmanager
    def stopping_on_ctrl_c(self) -> Iterator[None]:
        """Never lose a Ctrl-C: Python drops what is raised while an object is being freed, so it is also noted."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.default_int_handler:
            yield
            return

        def stop(number: int, frame: Any) -> None:
            self.stopped.set()
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def open(self, stage: Stage) -> Progress:
        """Status and metrics of a stage, made if they are not there."""
        return Progress(self.store, stage.name, stage.counts, stage.metrics)

    def run(self, *stages: Stage, stamp: str) -> dict[str, Progress]:
        """Run what is not done of some stages, each block as soon as what it needs is done.

        Returns the progress of each by name; where a stage has halted those after it are not complete. Raises
        InputError, OutputError or CorruptDataError at once where a block meets one; IncompleteError at the end where
        blocks failed for another reason. What is done stays done in either case.
        """
        flows = {stage.name: Flow(stage, self.open(stage)) for stage in stages}
        streaming = _Streaming(self, flows, stamp)
        failures = streaming.run()
        if streaming.accepted:
            self.store.update(errors=[*self.store.attributes.get("errors", []), *_told(streaming.accepted, True)][:100])
        if failures:
            self._record(stages, failures)
        return {name: flow.progress for name, flow in flows.items()}

    def _record(self, stages: Sequence[Stage], failures: dict[tuple[str, Shape], Failure]) -> None:
        order = {stage.name: number for number, stage in enumerate(stages)}
        failed = sorted(failures.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        known = self.store.attributes.get("errors", [])
        self.store.update(errors=[*known, *_told(dict(failed))][:100], state="incomplete", updated=time.time())
        (name, _), failure = next((f for f in failed if f[1].fatal), failed[0])
        if failure.fatal:
            raise failure.error
        stage = next(s for s in stages if s.name == name)
        blocks = ", ".join(str(index) for (_, index), _ in failed[:8])
        raise IncompleteError(
            f"{stage.title}: {len(failures)} block{'s' * (len(failures) > 1)} failed ({blocks}), first with "
            f"{failure.message}. What is done is kept; `bigreg resume {self.store.url}` tries again"
        )


def _told(failures: dict[tuple[str, Shape], Failure], accepted: bool = False) -> list[dict]:
    return [
        {"stage": name, "block": list(index), "message": f.message, "trace": f.trace, "accepted": accepted}
        for (name, index), f in failures.items()
    ]


class _Streaming:
    """One pass over some flows."""

    def __init__(self, driver: Driver, flows: dict[str, Flow], stamp: str) -> None:
        self.driver = driver
        self.client = driver.client
        self.store = driver.store
        self.listener = driver.listener
        self.expected = driver.expected
        self.accept_failed = driver.accept_failed
        self.accepted: dict[tuple[str, Shape], Failure] = {}
        self.flows = flows
        self.stamp = stamp
        self.failures: dict[tuple[str, Shape], Failure] = {}
        self.waiting: dict[Any, tuple[Flow, Shape, str]] = {}
        self.done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.reserves: dict[str, deque[tuple[Flow, Shape]]] = {}
        self.threads: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self.share: dict[str, float] = {}
        self.held: dict[str, int] = {}
        self.census = 0.0
        self.number = 0
        self.begun: dict[str, float] = {}

    def run(self) -> dict[tuple[str, Shape], Failure]:
        for flow in self.flows.values():
            if flow.complete:
                self._begin(flow)
                self._end(flow)
        try:
            self._look_around()
            self._fill()
            while self.waiting:
                if self.driver.stopped.is_set():
                    raise KeyboardInterrupt
                with suppress(queue.Empty):
                    self._answered(self.done.get(timeout=CENSUS_SECONDS))
                if time.monotonic() - self.census > CENSUS_SECONDS:
                    self._look_around()
                self._fill()
        finally:
            for future, (flow, index, _) in self.waiting.items():
                future.cancel()
                flow.progress.set(index, Status.TODO)
            for flow in self.flows.values():
                flow.progress.flush()
                if flow.stage.name in self.begun and not flow.complete:
                    self._end(flow)
        return self.failures

    # ------------------------------------------------------------------------------------------------ what runs next

    def _look_around(self) -> None:
        """See which workers there are; what was meant for one that is gone may run anywhere.

        Dask would wait for ever for a worker to come back under the same address where all were gone at once.
        Where some workers have a GPU only they are given blocks: on another device sums differ in the last bits.
        """
        self.census = time.monotonic()
        try:
            there = self.client.nthreads()
            if there != self.known:  # all that is known of hundreds of workers is long, so it is asked for seldom
                self.known = there
                workers = self.client.scheduler_info(n_workers=-1)["workers"]
                gpus = {w: there[w] for w, about in workers.items() if w in there and about["resources"].get(GPU)}
                self.threads = gpus or there
                self.share = {GPU: 1 / max(gpus.values())} if gpus else {}
        except (TimeoutError, OSError) as error:
            raise self._scheduler_gone(str(error)) from error
        for gone in self.reserves.keys() - self.threads.keys():
            left = self.reserves.pop(gone)
            self.reserves.setdefault("", deque()).extend(left)
        for future, (flow, index, worker) in list(self.waiting.items()):
            if worker and worker not in self.threads:
                self._forget(future)
                future.cancel()
                self._submit("", flow, index)

    def _fill(self) -> None:
        """Keep every worker busy, and no more."""
        if any(f.fatal for f in self.failures.values()):
            return
        workers = list(self.threads) or [""]
        missing = max(0, self.expected - len(self.threads))
        allowed = (1 + QUEUED) * (sum(self.threads.values()) + missing)
        while len(self.waiting) < max(allowed, 1 + QUEUED):
            # The worker with the least to do, first come first served among equals.
            worker = min(workers, key=lambda w: self.held.get(w, 0) / max(self.threads.get(w, 1), 1))
            job = self._job(worker)
            if job is None:
                return
            self._submit(worker, *job)

    def _job(self, worker: str) -> tuple[Flow, Shape] | None:
        """The next block for a worker: of its own span, of a new one, or of somebody else's."""
        own = self.reserves.setdefault(worker, deque())
        if not own:
            job = self._next_ready()
            while job is not None:
                own.append(job)
                flow = job[0]
                index = flow.take(self.flows) if len(self.threads) > 1 and len(own) < SPAN else None
                job = None if index is None else (flow, index)
        if own:
            return own.popleft()
        longest = max(self.reserves.values(), key=len)
        return longest.pop() if longest else None

    def _next_ready(self) -> tuple[Flow, Shape] | None:
        for flow in self.flows.values():
            index = flow.take(self.flows)
            if index is not None:
                return flow, index
        return None

    def _submit(self, worker: str, flow: Flow, index: Shape) -> None:
        stage = flow.stage
        self._begin(flow)
        self.number += 1
        future = self.client.submit(
            _execute, self.store.url, self.stamp, stage.task, stage.arguments, index,
            pure=False, priority=-self.number, workers=[worker] if worker else None, allow_other_workers=bool(worker),
            resources=self.share or None,
        )  # fmt: skip
        self.held[worker] = self.held.get(worker, 0) + 1
        self.waiting[future] = flow, index, worker
        flow.running += 1
        flow.progress.set(index, Status.RUNNING)
        future.add_done_callback(self.done.put)

    # ------------------------------------------------------------------------------------------------ what came back

    def _forget(self, future: Any) -> tuple[Flow, Shape]:
        flow, index, worker = self.waiting.pop(future)
        self.held[worker] -= 1
        flow.running -= 1
        return flow, index

    def _scheduler_gone(self, reason: str) -> ClusterError:
        return ClusterError(
            f"the Dask scheduler is gone ({reason}); what is done is kept: start it again and "
            f"`bigreg resume {self.store.url}`"
        )

    def _answer(self, future: Any) -> Answer | None:
        """What a task answered; None where its worker died with the answer. Raises ClusterError."""
        status = future.status
        if status == "error":  # the worker died too often, most likely for want of memory
            message = (
                f"a worker died on this block ({future.exception()}); give workers more memory or make blocks smaller"
            )
            return Answer(Status.FAILED, {}, Failure(message))
        if status == "cancelled" or self.client.status != "running":
            raise self._scheduler_gone(status)
        if status == "finished":
            with suppress(TimeoutError, CancelledError):
                return future.result(timeout=ANSWER_SECONDS)
        return None

    def _answered(self, future: Any) -> None:
        if future not in self.waiting:
            return  # it was taken back
        flow, index = self._forget(future)
        answer = self._answer(future)
        if answer is None:
            future.cancel()
            self._submit("", flow, index)
            return
        failure = answer.failure
        if failure is not None and self.accept_failed and flow.stage.optional and not failure.fatal:
            self.accepted[flow.stage.name, index] = failure
            answer = Answer(Status.BLANK, {})
        if answer.failure is not None:
            self.failures[flow.stage.name, index] = answer.failure
        else:
            flow.finish(index, answer.metrics)
        flow.progress.set(index, answer.status, answer.metrics)
        if self.listener:
            self.listener.block(flow.stage.name, int(answer.status), index)
        if flow.complete:
            self._end(flow)

    def _begin(self, flow: Flow) -> None:
        stage = flow.stage
        if stage.name not in self.begun:
            self.begun[stage.name] = time.monotonic()
            if self.listener:
                self.listener.stage(stage.name, stage.title, stage.blocks, flow.before)

    def _end(self, flow: Flow) -> None:
        flow.progress.flush()
        name = flow.stage.name
        if flow.done > flow.before:
            seconds = dict(self.store.attributes.get("seconds", {}))
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - self.begun[name]
            self.store.update(seconds=seconds, updated=time.time())
        if self.listener:
            self.listener.finish(name)


def new_stamp() -> str:
    """Names a state of the run's attributes for the workers' caches."""
    return f"{os.getpid()}-{time.monotonic_ns()}"
