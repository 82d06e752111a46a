"""Blocks start when what they read is done, neither before nor much later."""

from __future__ import annotations

import queue
import threading
import time
import tracemalloc

import numpy as np
import pytest
from distributed import get_worker

from bigreg import load_config, storage
from bigreg.geometry import BlockGrid, Grid
from bigreg.pipeline.context.frames import Frames
from bigreg.pipeline.context.ladder import ladder
from bigreg.pipeline.schedule.driver import Driver
from bigreg.pipeline.schedule.flow import Flow, Need, Stage, same_block
from bigreg.pipeline.schedule.streaming import Streaming
from bigreg.pipeline.store.store import Progress, RunStore, Status
from bigreg.pipeline.tasks import compose, estimate, stitch
from bigreg.storage.turns import waiting


@pytest.fixture
def store(tmp_path):
    store = RunStore(str(tmp_path / "run.zarr"))
    store.create({"config": load_config("demo").model_dump(mode="json"), "state": "running"})
    return store


def around(counts):
    """Each block reads its neighbours."""
    return lambda index: (
        tuple(max(i - 1, 0) for i in index),
        tuple(min(i + 2, n) for i, n in zip(index, counts, strict=True)),
    )


EVENTS: list[tuple[str, str, tuple]] = []
LOCK = threading.Lock()


def note(context, name, seconds, index):
    with LOCK:
        EVENTS.append(("begin", name, tuple(index)))
    with waiting():  # as one that reads does
        time.sleep(seconds * (1 + 20 * (index == (0, 0, 0))))
    with LOCK:
        EVENTS.append(("end", name, tuple(index)))
    return Status.DONE, {"failing": float(name == "bad" and index == (0, 0, 1))}


def test_no_block_starts_before_what_it_reads_and_none_waits_for_a_straggler(store, thread_client):
    EVENTS.clear()
    counts = (1, 3, 4)
    stages = [Stage("a", "a", counts, note, ("a", 0.005), ("failing",))]
    stages.append(Stage("b", "b", counts, note, ("b", 0.0), ("failing",), needs=(Need("a", around(counts)),)))
    stages.append(Stage("c", "c", counts, note, ("c", 0.0), ("failing",), needs=(Need("b", same_block),)))
    done = Driver(thread_client, store).run(*stages, stamp="1")
    assert all((p.status == Status.DONE).all() for p in done.values())
    ended = set()
    for what, name, index in EVENTS:
        if what == "end":
            ended.add((name, index))
        elif name == "b":
            first, last = around(counts)(index)
            assert all(("a", tuple(i)) in ended for i in np.argwhere(np.ones(np.subtract(last, first))) + first)
        elif name == "c":
            assert ("b", index) in ended
    # One thread works through the queue in order, so the last stages follow at once and not after a barrier.
    assert len(ended) == 36


def test_several_workers_go_on_beside_a_straggler(store):
    from distributed import Client, LocalCluster

    EVENTS.clear()
    counts = (1, 1, 12)
    stages = [Stage("a", "a", counts, note, ("a", 0.02), ("failing",))]
    stages.append(Stage("b", "b", counts, note, ("b", 0.0), ("failing",), needs=(Need("a", same_block),)))
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**settings) as cluster, Client(cluster, set_as_default=False) as client:
        Driver(client, store).run(*stages, stamp="1")
    straggler = EVENTS.index(("end", "a", (0, 0, 0)))
    assert sum(what == "end" and name == "b" for what, name, _ in EVENTS[:straggler]) >= 3


def compute(context, index):
    with LOCK:
        EVENTS.append(("begin", "compute", index))
    time.sleep(0.02)
    with LOCK:
        EVENTS.append(("end", "compute", index))
    with waiting():
        with LOCK:
            EVENTS.append(("begin", "read", index))
        time.sleep(0.02)
        with LOCK:
            EVENTS.append(("end", "read", index))
    return Status.DONE, {}


def test_a_worker_reads_one_block_while_it_computes_another_and_computes_one_at_a_time(store):
    from distributed import Client, LocalCluster

    EVENTS.clear()
    settings = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**settings) as cluster, Client(cluster, set_as_default=False) as client:
        Driver(client, store).run(Stage("a", "a", (1, 1, 8), compute), stamp="1")
    going, both = set(), 0
    for what, name, index in EVENTS:
        (going.add if what == "begin" else going.discard)((name, index))
        names = [n for n, _ in going]
        assert names.count("compute") <= 1
        both += len(set(names)) == 2
    assert both >= 4


def test_where_some_workers_have_a_gpu_only_they_are_given_blocks(store, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    from distributed import Client, Scheduler, SpecCluster, Worker

    plain = {"cls": Worker, "options": {"nthreads": 1}}
    gpu = {"cls": Worker, "options": {"nthreads": 2, "resources": {"GPU": 1}, "name": "with a GPU"}}
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0"}}
    with (
        SpecCluster({0: plain, 1: gpu, 2: plain}, scheduler) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        progress = Driver(client, store).run(Stage("a", "a", (1, 1, 12), where, metrics=("gpu",)), stamp="1")["a"]
    assert (progress.metric("gpu") == 1).all()


def where(context, index):
    return Status.DONE, {"gpu": float(get_worker().name == "with a GPU")}


def test_a_halted_stage_lets_nothing_that_needs_it_begin(store, thread_client):
    EVENTS.clear()
    counts = (1, 1, 4)
    bad = Stage("bad", "bad", counts, note, ("bad", 0.0), ("failing",), halts="failing")
    after = Stage(
        "after",
        "after",
        counts,
        note,
        ("after", 0.0),
        ("failing",),
        needs=(Need("bad", lambda i: ((0, 0, 0), counts)),),
    )
    done = Driver(thread_client, store).run(bad, after, stamp="1")
    assert (done["bad"].status == Status.DONE).all() and not done["after"].status.any()
    again = Driver(thread_client, store).run(bad, after, stamp="2")
    assert not again["after"].status.any(), "a halt is remembered"


def fail(context, index):
    if index == (0, 0, 1):
        raise RuntimeError("broken on purpose")
    return Status.DONE, {}


def test_what_does_not_need_a_failed_block_goes_on(store, thread_client):
    from bigreg.errors import IncompleteError

    counts = (1, 1, 6)
    stages = [Stage("f", "first", counts, fail)]
    stages.append(Stage("g", "second", counts, note, ("g", 0.0), ("failing",), needs=(Need("f", around(counts)),)))
    with pytest.raises(IncompleteError, match=r"\(0, 0, 1\).*broken on purpose"):
        Driver(thread_client, store).run(*stages, stamp="1")
    status = storage.open_array(store.path("g", "status"))[...][0, 0]
    assert (status[:3] == Status.TODO).all() and (status[3:] == Status.DONE).all()


def test_a_million_blocks_are_planned_in_little_memory(store):
    counts = (100, 100, 100)
    progress = Progress(store, "big", counts, ("seconds",))
    tracemalloc.start()
    flow = Flow(Stage("big", "big", counts, note), progress)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(flow.todo) == 10**6
    assert peak < 100e6


@pytest.mark.parametrize("cells", [(7, 9, 11), (40, 33, 5)])
def test_the_blocks_that_touch_a_box_are_those_that_meet_it(cells):
    blocks = BlockGrid.balanced(cells, (4, 5, 6), (2, 1, 3))
    rng = np.random.default_rng(0)
    for _ in range(50):
        start = tuple(int(rng.integers(0, n)) for n in cells)
        stop = tuple(int(rng.integers(a + 1, n + 1)) for a, n in zip(start, cells, strict=True))
        for halo in (False, True):
            first, last = blocks.touching(start, stop, halo=halo)
            for block in blocks:
                low, high = (block.halo_start, block.halo_stop) if halo else (block.start, block.stop)
                meets = all(a < q and p < b for a, b, p, q in zip(low, high, start, stop, strict=True))
                inside = all(p <= i < q for i, p, q in zip(block.index, first, last, strict=True))
                assert meets == inside


def test_what_a_block_says_it_needs_is_all_that_it_reads(registered, monkeypatch):
    """Every chunk that the tasks of a real run read belongs to a block that they said they need."""
    from bigreg.pipeline.context.context import Context
    from bigreg.storage import Array

    context = Context(registered.run.url, "needs")
    read: list[tuple[str, tuple, tuple]] = []
    original = Array.read

    def spy(self, start, stop):
        read.append((self.url, tuple(start), tuple(stop)))
        return original(self, start, stop)

    monkeypatch.setattr(Array, "read", spy)
    monkeypatch.setattr(Array, "write", lambda *a, **k: None)
    plans = ladder(context.frames, context.config)
    levels = {p.index: p for p in plans}
    checked = 0
    for level in plans:
        coarser = f"levels/{level.index + 1}/compose/0"
        tasks = {
            "estimate": estimate.needs(levels, level, coarser),
            "stitch": stitch.needs(level),
            "compose": compose.needs(levels, level, coarser),
        }
        for name, needs in tasks.items():
            for block in level.blocks:
                read.clear()
                if name == "estimate":
                    estimate.read_pair(context, level, block)
                elif name == "stitch":
                    stitch.stitch(context, level.index, block.index)
                else:
                    compose.compose(context, level.index, 0, block.index)
                for url, start, stop in read:
                    place = url.removeprefix(registered.run.url + "/").split("/")
                    if place[0] != "levels":
                        continue
                    other = levels[int(place[1])]
                    if place[2] in ("patches", "patch_sigma"):
                        stage, first, last = f"levels/{other.index}", start[:3], stop[:3]
                    elif place[2] == "velocity":
                        stage = f"levels/{other.index}/stitch"
                        first, last = other.blocks.touching(start[1:], stop[1:])
                    else:
                        stage, samples = f"levels/{other.index}/compose/0", other.lattice.samples
                        low = tuple(a // s for a, s in zip(start[1:], samples, strict=True))
                        high = tuple(-(-b // s) for b, s in zip(stop[1:], samples, strict=True))
                        first, last = other.blocks.touching(low, high)
                    boxes = [need.box(block.index) for need in needs if need.stage == stage]
                    assert boxes, f"{stage} is read and not needed"
                    ((need_first, need_last),) = boxes
                    assert all(a <= b for a, b in zip(need_first, first, strict=True)), (stage, block.index)
                    assert all(a >= b for a, b in zip(need_last, last, strict=True)), (stage, block.index)
                    checked += 1
    assert checked > 50


def test_frames_of_another_orientation_have_needs_too():
    grid = Grid.from_spacing((60, 50, 70), (4.0, 2.0, 2.0))
    frames = Frames.from_affine(grid, grid, np.eye(4), np.eye(4))
    plans = ladder(frames, load_config("demo", overrides=["blocks.core=16", "ladder.finest=1"]))
    levels = {p.index: p for p in plans}
    for level in plans[1:]:
        coarser = levels[level.index + 1]
        (need,) = estimate.needs(levels, level, "x")
        for block in level.blocks:
            first, last = need.box(block.index)
            assert all(0 <= a < b <= n for a, b, n in zip(first, last, coarser.blocks.counts, strict=True))


def test_an_answer_that_one_before_it_takes_back_is_let_be():
    """Both come at once; the first says that its worker may compute no more, and the second was meant for it."""

    class Future:
        status = "lost"

    streaming = object.__new__(Streaming)
    streaming.done, streaming.waiting = queue.SimpleQueue(), {Future(): None, Future(): None}
    streaming.pace, streaming.received, seen = 1.0, 0.0, []

    def answered(future, answer):
        seen.append(future)
        streaming.waiting.clear()

    streaming._answered = answered
    for future in streaming.waiting:
        streaming.done.put(future)
    streaming._receive()
    assert len(seen) == 1
