"""A scheduler that dies, and workers that run out of memory: what is done is kept, and the end is the same bits."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from bigreg import open_run, register
from bigreg.cluster import local_client
from bigreg.config import Cluster
from bigreg.errors import ClusterError, IncompleteError
from bigreg.pipeline.schedule.driver import Driver
from bigreg.pipeline.schedule.flow import Stage
from bigreg.pipeline.store.store import RunStore, Status


class Listener:
    """Does something once, at the first block of a stage or at its beginning."""

    def __init__(self, at: str, action, *, begin: bool = False) -> None:
        self.at, self.action, self.begin, self.done = at, action, begin, False

    def _reached(self, name: str) -> None:
        if name == self.at and not self.done:
            self.done = True
            self.action()

    def plan(self, stages):
        pass

    def stage(self, name, title, blocks, done):
        if self.begin:
            self._reached(name)

    def block(self, name, status, index):
        if not self.begin:
            self._reached(name)

    def finish(self, name):
        pass


@contextmanager
def scheduler_and_worker():
    """A scheduler and a worker as processes of their own, as an administrator starts them; yields (address, pid)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    place = address.rpartition("/")[2].split(":")
    scheduler = [*dask, "scheduler", "--host", place[0], "--port", place[1], "--no-dashboard", "--no-show"]
    worker = [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "20"]
    processes = [subprocess.Popen(command, **quiet) for command in (scheduler, worker)]
    try:
        yield address, processes[0].pid
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_scheduler_that_is_killed_ends_the_run_with_an_error_and_another_finishes_it(
    registered, small_config, same_bits, tmp_path
):
    out = str(tmp_path / "run.zarr")
    with scheduler_and_worker() as (address, pid):
        killer = Listener("levels/0", lambda: os.kill(pid, signal.SIGKILL))
        config = small_config(f"cluster={{kind: address, scheduler_address: '{address}'}}")
        with pytest.raises(ClusterError, match="bigreg resume"):
            register(registered.fixed, registered.moving, out=out, config=config, progress=killer)
    assert killer.done and open_run(out).status().state == "incomplete"
    with scheduler_and_worker() as (address, _):
        run = open_run(out).resume(cluster={"kind": "address", "scheduler_address": address})
    assert run.status().state == "finished" and same_bits(run, registered.run)


@pytest.mark.slow
def test_a_worker_that_runs_out_of_memory_is_replaced_and_its_blocks_are_computed_again(
    registered, small_config, same_bits, tmp_path
):

    async def eat_memory():
        await asyncio.to_thread(np.full, 3 * 10**8, 1.0)

    with local_client(Cluster(workers=1, memory_limit="1500MB")) as client:
        before = client.run(os.getpid)
        # 2.4 GB in the worker while it works: its nanny sees that and kills it.
        eat = Listener("levels/0", lambda: client.run(eat_memory, wait=False), begin=True)
        run = register(
            registered.fixed, registered.moving, out=str(tmp_path / "run.zarr"), config=small_config(), client=client,
            progress=eat,
        )  # fmt: skip
        assert eat.done and client.run(os.getpid) != before, "nobody was killed"
    assert run.status().state == "finished" and same_bits(run, registered.run)


@pytest.mark.slow
def test_a_block_that_kills_every_worker_fails_alone_and_says_what_to_do(small_config, tmp_path):
    store = RunStore(str(tmp_path / "run.zarr"))
    store.create({"config": small_config().model_dump(mode="json"), "state": "running"})

    def die(context, index):
        if index == (0, 0, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return Status.DONE, {}

    with (
        local_client(Cluster(workers=1)) as client,
        pytest.raises(IncompleteError, match=r"1 block failed \(\(0, 0, 1\)\).*a worker died.*more memory"),
    ):
        Driver(client, store).run(Stage("a", "a", (1, 1, 6), die), stamp="1")
    status = store.array("a", "status")[...][0, 0]
    assert status[1] == Status.FAILED and (np.delete(status, 1) == Status.DONE).all()
