"""Devices that run out of memory, break or are another kind: what becomes of their blocks."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager

import dask
import numpy as np
import pytest
import torch
from distributed import Client, Scheduler, SpecCluster, Worker, get_worker

from bigreg import storage
from bigreg.cluster import Cluster, escalate, local_client
from bigreg.cluster.escalation import Escalation, escalating
from bigreg.device import computing_on, current_device, halvings, is_broken, is_out_of_memory, smaller_pieces
from bigreg.errors import IncompleteError, OutputError, ResourceError
from bigreg.pipeline.judging.status import status_of
from bigreg.pipeline.schedule.driver import Driver
from bigreg.pipeline.schedule.flow import Stage
from bigreg.pipeline.store.store import RunStore, Status
from bigreg.testing import simulated_cuda

GPU = "simulated CUDA device (without Triton)"
SCHEDULER = {"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0"}}


@pytest.fixture
def store(tmp_path):
    run = RunStore(str(tmp_path / "run.zarr"))
    run.create({"config": {}, "state": "running", "updated": 0.0})
    return run


def opened(url, stamp):
    return url


@contextmanager
def workers(*options):
    """A client of workers in this process with these options."""
    spec = {n: {"cls": Worker, "options": {"nthreads": 1, "name": str(n), **o}} for n, o in enumerate(options)}
    with SpecCluster(spec, SCHEDULER) as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(len(options))
        yield client


def run(client, store, task, counts=(1, 1, 6), metrics=("a", "b"), **more):
    stage = Stage("work", "the work", counts, task, metrics=metrics)
    store.update(stages=[["work", "the work", int(np.prod(counts))]])
    return Driver(client, store, opener=opened, **more).run(stage, stamp=str(time.monotonic_ns()))["work"]


# --------------------------------------------------------------------------------------------------- which device


def on_which(context, index):
    return Status.DONE, {"a": float(current_device().type == "cuda"), "b": 0.0}


def test_a_gpu_is_used_only_by_a_worker_that_was_given_one(store, tmp_path):
    with simulated_cuda():
        with workers({}) as client:
            assert (run(client, store, on_which).metric("a") == 0).all()
        other = RunStore(str(tmp_path / "other.zarr"))
        other.create({"config": {}, "state": "running", "updated": 0.0})
        with workers({"resources": {"GPU": 1}}) as client:
            assert (run(client, other, on_which).metric("a") == 1).all()
    assert (store.attributes["devices"], other.attributes["devices"]) == (
        ["CPU"],
        [GPU],
    )


def test_a_worker_that_was_given_a_gpu_and_sees_none_says_so(store):
    with workers({"resources": {"GPU": 1}}) as client, pytest.raises(ResourceError, match="PyTorch sees none"):
        run(client, store, on_which)
    with pytest.raises(ResourceError, match="without the resource GPU"), computing_on("cuda"):
        pass


def test_another_kind_of_device_goes_on_only_where_that_is_said(store):
    with workers({}) as client:
        run(client, store, on_which)
    again = {"task": on_which, "counts": (1, 1, 7)}
    storage.remove(store.path("work"))
    with simulated_cuda(), workers({"resources": {"GPU": 1}}) as client:
        with pytest.raises(OutputError, match="computed on CPU, and the workers compute on simulated CUDA"):
            run(client, store, **again)
        run(client, store, **again, device_change=True)
    assert store.attributes["devices"] == ["CPU", GPU]
    assert f"computed on CPU and {GPU}" in status_of(store).notes[0]


# --------------------------------------------------------------------------------------------------- no memory left

SEEN: list[tuple[tuple, int]] = []


def hungry(context, index):
    """Takes as much memory as fits only in pieces that are halved as often as the block's index says."""
    SEEN.append((index, halvings()))
    piece = torch.zeros(2**20 >> (3 * halvings()), device=current_device())
    return Status.DONE, {"a": float(piece.numel()), "b": float(halvings())}


@pytest.mark.parametrize(("memory", "expected"), [(2**23, 0), (2**20, 1), (2**17, 2)])
def test_a_block_without_memory_is_tried_alone_and_then_in_smaller_pieces(store, memory, expected):
    SEEN.clear()
    with simulated_cuda(memory), workers({"resources": {"GPU": 1}}) as client:
        progress = run(client, store, hungry, counts=(1, 1, 2))
    assert (progress.metric("b") == expected).all()
    assert [h for index, h in SEEN if index == (0, 0, 0)] == [0, 0, 1, 2][: expected + 2 if expected else 1]
    notes = status_of(store).notes
    assert notes == () if expected == 0 else "memory ran out on 2 blocks of 'the work'" in notes[0]


def test_what_never_fits_fails_with_the_remedy(store):
    with simulated_cuda(1000), workers({"resources": {"GPU": 1}}) as client, pytest.raises(
        IncompleteError, match="eighth along each axis: give workers more memory"
    ):  # fmt: skip
        run(client, store, hungry, counts=(1, 1, 1))


HELD = threading.Event()


def holding(context, index):
    """The first holds most of the memory while it reads; the second needs as much."""
    block = torch.zeros(2**20, device=current_device())
    if index == (0, 0, 0):
        HELD.set()
        with storage.turns.waiting():
            time.sleep(0.5)
    return Status.DONE, {"a": float(block.sum()), "b": float(halvings())}


def test_the_memory_that_another_block_in_hand_holds_is_waited_for(store):
    with simulated_cuda(3 * 2**21), workers({"nthreads": 2, "resources": {"GPU": 2}}) as client:
        progress = run(client, store, holding, counts=(1, 1, 4))
    assert HELD.is_set() and (progress.metric("b") == 0).all()  # whole, all of them


def test_who_wants_to_be_alone_is(monkeypatch):
    inside, most = [], []

    def work(alone):
        with storage.computing(alone=alone):
            inside.append(alone)
            most.append(list(inside))
            with storage.turns.waiting():
                time.sleep(0.02)
            inside.remove(alone)

    threads = [threading.Thread(target=work, args=(n % 3 == 0,)) for n in range(12)]
    [t.start() for t in threads]
    [t.join(30) for t in threads]
    assert not inside and max(map(len, most)) > 1
    assert all(seen == [True] for seen in most if True in seen)


@pytest.mark.parametrize(
    ("error", "memory", "broken"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True, False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), False, True),
        (RuntimeError("shape mismatch"), False, False),
        (ValueError("CUDA error: in a text"), False, False),
    ],
)
def test_errors_are_told_apart(error, memory, broken):
    assert (is_out_of_memory(error), is_broken(error)) == (memory, broken)


# --------------------------------------------------------------------------------------------------- broken devices


def breaking(context, index):
    if get_worker().name == "0":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    time.sleep(0.02)
    return Status.DONE, {"a": 1.0, "b": 0.0}


def test_the_blocks_of_a_broken_device_go_to_others(store):
    with workers({}, {}, {}) as client:
        progress = run(client, store, breaking, counts=(1, 5, 10))
    assert (progress.status == Status.DONE).all() and store.attributes.get("errors", []) == []


def test_where_every_device_is_broken_the_run_ends_with_the_reason(store):
    with workers({}) as client, pytest.raises(ResourceError, match="no worker can compute: .*illegal memory access"):
        run(client, store, breaking)


def breaking_once(context, index):
    """The first process that computes it breaks."""
    try:
        os.close(os.open(os.path.join(os.path.dirname(context), "broken"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return Status.DONE, {"a": float(os.getpid()), "b": 0.0}
    raise RuntimeError("CUDA error: unspecified launch failure")


@pytest.mark.timeout(240)
def test_a_process_whose_device_broke_ends_and_another_goes_on(store):
    with local_client(Cluster(workers=1)) as client:
        before = client.submit(os.getpid).result(timeout=120)
        progress = run(client, store, breaking_once, counts=(1, 1, 3))
        after = client.submit(os.getpid, pure=False).result(timeout=120)
    assert (progress.status == Status.DONE).all() and before != after
    assert (progress.metric("a") == after).all()


# --------------------------------------------------------------------------------------------------- more memory


class Jobs:
    """What `Escalation` needs of a dask-jobqueue cluster."""

    def __init__(self):
        self.new_spec = {"options": {"memory": 10**9, "queue": "long"}}
        self.workers, self.scaled = {"a": 1}, []

    def scale(self, count):
        self.scaled.append(count)
        self.workers = {} if count == 0 else {"b": 1}


def test_jobs_are_submitted_again_with_twice_the_memory_at_most_so_often():
    jobs, client = Jobs(), type("Client", (), {})()
    settings = Cluster(kind="slurm", workers=3, memory_limit="1GB")
    assert not escalate(client)
    with escalating(client, Escalation(jobs, settings, lambda s: {"memory": int(s.memory_limit)})):
        assert [escalate(client) for _ in range(3)] == [True, True, False]
    assert jobs.new_spec["options"] == {"memory": 4 * 10**9, "queue": "long"} and jobs.scaled == [0, 3, 0, 3]
    assert not escalate(client)
    never = Escalation(jobs, settings.model_copy(update={"escalate": 0}), lambda s: {})
    with escalating(client, never):
        assert not escalate(client)


def deadly(context, index):
    """Ends its worker, unless that was given more."""
    if not os.path.exists(os.path.join(os.path.dirname(context), "more")):
        os._exit(1)
    return Status.DONE, {"a": 1.0, "b": 0.0}


@pytest.mark.timeout(240)
def test_a_block_that_ends_its_workers_is_computed_by_larger_ones(store, tmp_path):
    class More:
        def double(self):
            (tmp_path / "more").touch()
            return True

    one_death = dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with one_death, local_client(Cluster(workers=1)) as client, escalating(client, More()):
        progress = run(client, store, deadly, counts=(1, 1, 1))
    assert (progress.status == Status.DONE).all()


def test_smaller_pieces_end_with_their_block():
    with smaller_pieces(2):
        assert halvings() == 2
    assert halvings() == 0
