"""One pass over the blocks of some stages: which one runs next and where, and what becomes of its answer."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, Protocol

from distributed import Client

from ...cluster import GPU, escalate
from ...errors import ClusterError, ResourceError
from ...geometry import Shape
from ..store import stopping
from ..store.store import SMALLER, RunStore, Status
from .answers import Answer, Failure, Opener, execute, told
from .devices import Devices
from .flow import Flow

log = logging.getLogger("bigreg.cluster")

QUEUED = 2
"""Tasks that wait at a worker for each that runs there: more where they take less than a moment."""
MOST_QUEUED = 20
MOMENT = 0.2
"""Seconds in which a worker gets its next tasks, however busy the scheduler is."""
SPAN = 8
"""Neighbouring blocks that one worker is given, since they share what they read."""
ANSWER_SECONDS = 20.0
"""An answer is a few numbers: one that does not come in this time is lost."""
MOST_ERRORS = 100
CENSUS_SECONDS = 2.0
"""How old what is known of the workers may be."""


class Listener(Protocol):
    """Hears how a run goes on (the command line's progress bars, a napari panel, a test)."""

    def plan(self, stages: list[tuple[str, str, int]]) -> None:
        """All stages as (name, title, blocks), blocks 0 where not known yet; called again when more is known."""

    def stage(self, name: str, title: str, blocks: int, done: int) -> None:
        """A stage begins; `done` of its blocks are there from before. Several may go on at the same time."""

    def block(self, name: str, status: int, index: tuple) -> None:
        """A block has become done, blank or failed."""

    def finish(self, name: str) -> None:
        """A stage is complete, or ends for now."""


class Streaming:
    """One pass over some flows, on a client. `stopped` ends it; see `Driver` for the others.

    Workers that cannot compute (`unfit`), or that compute on another kind of device than the run began with, are given
    no block.
    """

    def __init__(
        self,
        client: Client,
        store: RunStore,
        flows: dict[str, Flow],
        stamp: str,
        *,
        listener: Listener | None,
        expected: int,
        accept_failed: bool,
        stopped: threading.Event,
        opener: Opener,
        devices: Devices,
    ) -> None:
        self.client = client
        self.devices = devices
        self.store = store
        self.listener = listener
        self.expected = expected
        self.accept_failed = accept_failed
        self.stopped = stopped
        self.opener = opener
        self.flows = flows
        self.stamp = stamp
        self.failures: dict[tuple[str, Shape], Failure] = {}
        self.suspects: deque[tuple[Flow, Shape]] = deque()
        self.suspected: set[tuple[str, Shape]] = set()
        self.alone: tuple[str, Shape] | None = None
        self.waiting: dict[Any, tuple[Flow, Shape, str]] = {}
        self.done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.reserves: dict[str, deque[tuple[Flow, Shape]]] = {}
        self.threads: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self.unfit: dict[str, str] = {}
        self.shunned = 0
        self.smaller: dict[str, int] = dict(store.attributes.get(SMALLER, {}))
        self.share: dict[str, float] = {}
        self.held: dict[str, int] = {}
        self.census = 0.0
        self.received = 0.0
        self.pace = 1.0
        self.number = 0
        self.begun: dict[str, float] = {}
        self.errors: list[dict] = list(store.attributes.get("errors", []))
        self.names: list[str] = list(store.attributes.get("workers", []))

    def run(self) -> dict[tuple[str, Shape], Failure]:
        begin = time.monotonic()
        for flow in self.flows.values():
            if flow.complete:
                self._begin(flow)
                self._end(flow)
        try:
            self._look_around()
            self._fill()
            while self.waiting:
                if self.stopped.is_set():
                    raise KeyboardInterrupt
                self._receive()
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
            if any(flow.done > flow.before for flow in self.flows.values()):  # stages overlap: their sum says too much
                before = self.store.attributes.get("elapsed", 0.0)
                self.store.update(elapsed=before + time.monotonic() - begin)
        return self.failures

    # ------------------------------------------------------------------------------------------------ what runs next

    def _look_around(self) -> None:
        """See which workers there are; what was meant for one that is gone may run anywhere.

        Dask would wait for ever for a worker to come back under the same address where all were gone at once.
        Where some workers have a GPU only they are given blocks: on another device sums differ in the last bits.
        """
        self.census = time.monotonic()
        stopping.check(self.store.url)
        try:
            there = self.client.nthreads()
            if there != self.known or self.shunned != len(self.unfit):  # seldom: of hundreds of workers it is long
                self.known = there
                self.store.update(connected={"workers": len(there), "threads": sum(there.values())})
                workers = self.client.scheduler_info(n_workers=-1)["workers"]
                gpus = {w: there[w] for w, about in workers.items() if w in there and about["resources"].get(GPU)}
                self.unfit |= self.devices.unfit(self.client, list(gpus or there), gpu=bool(gpus))
                self.shunned = len(self.unfit)
                self.threads = {w: n for w, n in (gpus or there).items() if w not in self.unfit}
                self.share = {GPU: 1 / max(gpus.values())} if gpus else {}
                if there and not self.threads:
                    raise ResourceError(f"no worker can compute: {self.unfit[next(iter(gpus or there))]}")
        except (TimeoutError, OSError) as error:
            raise self._scheduler_gone(str(error)) from error
        for gone in self.reserves.keys() - self.threads.keys():
            left = self.reserves.pop(gone)
            self.reserves.setdefault("", deque()).extend(left)
        for future, (flow, index, worker) in list(self.waiting.items()):
            if worker and worker not in self.threads:
                self._forget(future)
                future.cancel()
                self._submit("", [(flow, index)])

    def _fill(self) -> None:
        """Keep every worker busy, and no more."""
        if any(f.fatal for f in self.failures.values()):
            return
        workers = list(self.threads) or [""]
        missing = max(0, self.expected - len(self.threads))
        there = sum(self.threads.values()) + missing
        queued = min(max(QUEUED, math.ceil(MOMENT / (self.pace * max(there, 1)))), MOST_QUEUED)
        allowed = (1 + queued) * there
        free = max(allowed, 1 + QUEUED) - len(self.waiting)
        jobs: dict[str, list[tuple[Flow, Shape]]] = {}
        held = dict(self.held)
        for _ in range(free):
            # The worker with the least to do, first come first served among equals.
            worker = min(workers, key=lambda w: held.get(w, 0) / max(self.threads.get(w, 1), 1))
            job = self._job(worker)
            if job is None:
                break
            held[worker] = held.get(worker, 0) + 1
            jobs.setdefault(worker, []).append(job)
        for worker, own in jobs.items():
            self._submit(worker, own)

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

    def _submit(self, worker: str, jobs: list[tuple[Flow, Shape]]) -> None:
        self.number += 1
        calls = [
            (self.opener, self.store.url, self.stamp, flow.stage.task, flow.stage.arguments, index)
            for flow, index in jobs
        ]
        futures = self.client.map(
            execute, *zip(*calls, strict=True),
            pure=False, priority=-self.number, **self._wheres(worker),
            resources=self.share or None,
        )  # fmt: skip
        for future, (flow, index) in zip(futures, jobs, strict=True):
            self._begin(flow)
            self.held[worker] = self.held.get(worker, 0) + 1
            self.waiting[future] = flow, index, worker
            flow.running += 1
            flow.progress.set(index, Status.RUNNING)
            future.add_done_callback(self.done.put)

    def _wheres(self, worker: str) -> dict[str, Any]:
        """Where Dask may run a block that is meant for a worker, or for any: not where it cannot be computed."""
        if self.unfit.keys() & self.known.keys():
            return {"workers": [worker] if worker in self.threads else list(self.threads) or None}
        return {"workers": [worker] if worker else None, "allow_other_workers": bool(worker)}

    # ------------------------------------------------------------------------------------------------ what came back

    def _forget(self, future: Any) -> tuple[Flow, Shape]:
        flow, index, worker = self.waiting.pop(future)
        self.held[worker] -= 1
        flow.running -= 1
        return flow, index

    def _scheduler_gone(self, reason: str) -> ClusterError:
        return ClusterError(
            f"the Dask scheduler is gone ({reason}); completed blocks are kept: start it again and run "
            f"{self.store.again}"
        )

    def _receive(self) -> None:
        """Wait for an answer, and take all that are there by then at once: each asking takes as long as all."""
        futures = []
        with suppress(queue.Empty):
            futures.append(self.done.get(timeout=CENSUS_SECONDS))
            while True:
                futures.append(self.done.get_nowait())
        futures = [f for f in futures if f in self.waiting]  # the others were taken back
        if not futures:
            return
        now = time.monotonic()
        self.pace += 0.1 * (min(now - self.received, 10.0) / len(futures) - self.pace)
        self.received = now
        answers: list[Answer | None] = [None] * len(futures)
        if len(futures) > 1 and all(f.status == "finished" for f in futures):
            with suppress(Exception):  # whatever it is, each is asked for by itself then
                answers = self.client.sync(self._gather, futures, callback_timeout=ANSWER_SECONDS)
        for future, answer in zip(futures, answers, strict=True):
            if future in self.waiting:  # an answer before may have taken it back
                self._answered(future, answer)

    async def _gather(self, futures: list[Any]) -> list[Answer]:
        return await self.client.gather(futures, asynchronous=True)

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

    def _answered(self, future: Any, answer: Answer | None) -> None:
        flow, index = self._forget(future)
        if self.alone is not None and self.alone == (flow.stage.name, index):
            self.alone = None
        if answer is None and future.status == "error" and (flow.stage.name, index) not in self.suspected:
            # Whatever a worker has in hand shares its death, so each such block has to show that it kills by itself.
            self.suspected.add((flow.stage.name, index))
            self.suspects.append((flow, index))
            self._try_alone()
            return
        answer = answer or self._answer(future)
        if answer is not None and answer.unfit:
            log.warning("the worker %s is given no more blocks: %s", answer.worker, answer.unfit)
            self.unfit[answer.worker] = answer.unfit
            self._look_around()
            answer = None
        if answer is None or (answer.failure is not None and future.status == "error" and self._given_more()):
            future.cancel()
            self._submit("", [(flow, index)])
            return
        if answer.halvings:
            self.smaller[flow.stage.name] = self.smaller.get(flow.stage.name, 0) + 1
            self.store.update(**{SMALLER: self.smaller})
        failure = answer.failure
        if failure is not None and self.accept_failed and flow.stage.optional and not failure.fatal:
            self._record(flow, index, failure, accepted=True)
            answer = Answer(Status.BLANK, {}, worker=answer.worker)
        if answer.failure is not None:
            self.failures[flow.stage.name, index] = answer.failure
            self._record(flow, index, answer.failure)
        else:
            flow.finish(index, answer.metrics)
        flow.progress.set(index, answer.status, answer.metrics, worker=self._number(answer.worker))
        if self.listener:
            self.listener.block(flow.stage.name, int(answer.status), index)
        if flow.complete:
            self._end(flow)
        self._try_alone()

    def _given_more(self) -> bool:
        """A block ends every worker that takes it: whether there will be others with more memory."""
        return escalate(self.client)

    def _try_alone(self) -> None:
        """Submit the next block that a worker died on, unless another of them is still out."""
        if self.suspects and self.alone is None:
            flow, index = self.suspects.popleft()
            self.alone = flow.stage.name, index
            self._submit("", [(flow, index)])

    def _record(self, flow: Flow, index: Shape, failure: Failure, accepted: bool = False) -> None:
        """Write a failure into the run at once, so that whoever watches can read it; the first MOST_ERRORS of them."""
        if len(self.errors) < MOST_ERRORS:
            self.errors += told({(flow.stage.name, index): failure}, accepted)
            self.store.update(errors=self.errors)

    def _number(self, worker: str) -> int:
        """The number, from 1, by which the store names a worker; 0 for one that did not say."""
        if worker and worker not in self.names:
            self.names.append(worker)
            self.store.update(workers=self.names)
        return self.names.index(worker) + 1 if worker else 0

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
