"""Runs the blocks of stages as Dask tasks and records what comes of them in the store."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import Client

from ...errors import IncompleteError
from ...geometry import Shape
from ..context.context import context
from ..store.store import Progress, RunStore
from .answers import Failure, Opener
from .devices import Devices
from .flow import Flow, Stage
from .streaming import Listener, Streaming


class Driver:
    """Runs stages on a Dask client and records them in the store.

    expected        workers that are on their way, where the cluster starts them by need
    accept_failed   blocks that fail are blank, in stages that can do without them
    device_change   another kind of device than the run began with may go on with it
    opener          makes on a worker what the tasks are given, of the store's url and a stamp; it keeps it
    """

    def __init__(
        self,
        client: Client,
        store: RunStore,
        listener: Listener | None = None,
        *,
        expected: int = 0,
        accept_failed: bool = False,
        device_change: bool = False,
        opener: Opener = context,
    ) -> None:
        self.client = client
        self.store = store
        self.listener = listener
        self.expected = expected
        self.accept_failed = accept_failed
        self.opener = opener
        self.devices = Devices(store, device_change)
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
        streaming = Streaming(
            self.client, self.store, flows, stamp, listener=self.listener, expected=self.expected,
            accept_failed=self.accept_failed, stopped=self.stopped, opener=self.opener,
            devices=self.devices,
        )  # fmt: skip
        failures = streaming.run()
        if failures:
            self._end(stages, failures)
        return {name: flow.progress for name, flow in flows.items()}

    def _end(self, stages: Sequence[Stage], failures: dict[tuple[str, Shape], Failure]) -> None:
        order = {stage.name: number for number, stage in enumerate(stages)}
        failed = sorted(failures.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        self.store.update(state="incomplete", updated=time.time())
        (name, _), failure = next((f for f in failed if f[1].fatal), failed[0])
        if failure.fatal and failure.error is not None:
            raise failure.error
        stage = next(s for s in stages if s.name == name)
        blocks = ", ".join(str(index) for (_, index), _ in failed[:8])
        raise IncompleteError(
            f"{stage.title}: {len(failures)} block{'s' * (len(failures) > 1)} failed ({blocks}), first with "
            f"{failure.message}. Completed blocks are kept; {self.store.again} tries again"
        )


def new_stamp() -> str:
    """Names a state of the run's attributes for the workers' caches."""
    return f"{os.getpid()}-{time.monotonic_ns()}"
