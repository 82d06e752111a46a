"""The simulation against what can be said without one: closed forms, bounds, and orders of blocks."""

from __future__ import annotations

import dataclasses
import time
import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigreg import Rates, plan
from bigreg.errors import ConfigError
from bigreg.pipeline.planning.simulate import durations, simulate
from bigreg.pipeline.planning.workload import Amount, Need, Work

# A second a unit of work, a second a byte that is read or written alone, and nothing else takes time.
UNIT = Rates(
    **dict.fromkeys(("warp", "step", "stitch"), 1.0), decode_mb_s=1e12, encode_mb_s=1e12, source_mb_s=1e12,
    read_mb_s=1e-6, write_mb_s=1e-6, stored=1.0, looks=1.0, start=0.0, stage=0.0, schedule=0.0, streams=1e9,
)  # fmt: skip


def work(name="a", counts=(1, 1, 6), seconds=1.0, *, phase=0, needs=(), read=0.0, write=0.0):
    return Work(
        name, name, counts, phase, (("warp", Amount.same(seconds, counts)),), needs=tuple(needs),
        reads=(Amount.same(read, counts),), writes=(Amount.same(write, counts),),
    )  # fmt: skip


def same(stage):
    return Need(stage, lambda index: (index, tuple(i + 1 for i in index)))


def all_of(stage, counts):
    return Need(stage, lambda index: ((0, 0, 0), counts))


@pytest.mark.parametrize(("workers", "seconds"), [(1, 12), (2, 6), (3, 4), (4, 4), (5, 4), (6, 2), (50, 2)])
def test_equal_blocks_take_whole_rounds(workers, seconds):
    made = simulate([work(seconds=2.0)], UNIT, workers)
    assert made.seconds == pytest.approx(seconds)
    assert made.efficiency == pytest.approx(12 / workers / seconds)


def test_start_stages_and_scheduling_are_counted():
    rates = dataclasses.replace(UNIT, start=7.0, stage=0.5, schedule=0.25)
    made = simulate([work(counts=(1, 1, 1)), work("b", (1, 1, 1), phase=1)], rates, 1)
    assert made.seconds == pytest.approx(7 + 2 * (0.5 + 0.25 + 1))


def test_a_scheduler_that_is_slower_than_its_workers_binds():
    rates = dataclasses.replace(UNIT, schedule=0.5)
    made = simulate([work(counts=(10, 10, 10), seconds=1.0)], rates, 100)
    assert made.seconds == pytest.approx(500, rel=0.02) and made.binds == "scheduler"
    assert simulate([work(counts=(10, 10, 10), seconds=1.0)], rates, 1).seconds == pytest.approx(1000, rel=0.01)


def test_transfers_share_the_storage():
    rates = dataclasses.replace(UNIT, streams=2.0)
    blocks = [work(counts=(1, 1, 8), seconds=0.0, read=3.0, write=1.0)]
    assert simulate(blocks, rates, 1).seconds == pytest.approx(32)
    assert simulate(blocks, rates, 2).seconds == pytest.approx(16)
    crowded = simulate(blocks, rates, 8)
    assert crowded.seconds == pytest.approx(16) and crowded.storage == pytest.approx(1) and crowded.binds == "storage"


def test_a_worker_reads_computes_and_writes_in_turn_or_at_once():
    blocks = [work(counts=(1, 1, 10), seconds=2.0, read=2.0, write=2.0)]
    assert simulate(blocks, UNIT, 1).seconds == pytest.approx(60)
    assert simulate(blocks, UNIT, 1, overlap=True).seconds == pytest.approx(24)


def test_stages_stream_into_one_another_but_not_across_phases():
    # Of six and six blocks on four workers, two workers idle at each barrier.
    stages = [work(), work("b", needs=[same("a")])]
    assert simulate(stages, UNIT, 4).seconds == pytest.approx(3)
    assert simulate(stages, UNIT, 4, streaming=False).seconds == pytest.approx(4)
    assert simulate([stages[0], dataclasses.replace(stages[1], phase=1)], UNIT, 4).seconds == pytest.approx(4)
    assert simulate([stages[0], work("b", needs=[all_of("a", (1, 1, 6))])], UNIT, 4).seconds == pytest.approx(4)


def test_the_longest_chain_binds_where_there_are_workers_enough():
    stages = [work("a", (1, 1, 4))]
    for number in range(1, 6):
        stages.append(work(f"{number}", (1, 1, 4), needs=[same(stages[-1].name)]))
    made = simulate(stages, UNIT, 1000)
    assert made.seconds == pytest.approx(6) and made.chain == pytest.approx(1) and made.binds == "critical path"
    begins = [made.stages[stage.name][0] for stage in stages]
    assert begins == pytest.approx(range(6))


def test_blocks_at_the_border_take_less():
    sizes = np.array([4.0, 4.0, 1.0])
    stage = Work("a", "a", (1, 1, 3), 0, (("warp", Amount(1.0, (np.ones(1), np.ones(1), sizes))),))
    assert durations(stage, UNIT)[1].tolist() == sizes.tolist()
    assert simulate([stage], UNIT, 3).seconds == pytest.approx(4)


def test_an_engine_that_stands_still_stops_looking():
    stage = Work("a", "a", (1, 1, 1), 0, (("step", Amount.same(2.0, (1, 1, 1))),), looks=40)
    for looks, seconds in ((10.0, 20.0), (100.0, 80.0)):
        made = simulate([stage], dataclasses.replace(UNIT, looks=looks), 1)
        assert made.seconds == pytest.approx(seconds)


def test_a_window_of_blocks_that_wait_holds_up_those_behind_it():
    """Behind blocks that wait for a long one stand others that could run: seen only in a wide enough window."""
    long = Work("a", "a", (1, 1, 2), 0, (("warp", Amount(1.0, (np.ones(1), np.ones(1), np.array([10.0, 1.0])))),))
    box = lambda index: ((0, 0, 0), (1, 1, 1)) if index[2] < 10 else ((0, 0, 1), (1, 1, 2))  # noqa: E731
    stages = [long, work("b", (1, 1, 20), needs=[Need("a", box)])]
    assert simulate(stages, UNIT, 2, window=64).seconds == pytest.approx(15.5, abs=0.6)
    assert simulate(stages, UNIT, 2, window=4).seconds == pytest.approx(20)


def test_descriptions_of_others_will_do():
    @dataclass
    class ForeignNeed:
        stage: str
        box: Any

    stages = [work(), work("b", needs=[ForeignNeed("a", same("a").box), ForeignNeed("not of this phase", None)])]
    assert simulate(stages, UNIT, 4).seconds == pytest.approx(3)


def test_blocks_that_wait_for_one_another_are_an_error():
    with pytest.raises(ValueError, match="12 blocks wait for one another"):
        simulate([work(needs=[same("b")]), work("b", needs=[same("a")])], UNIT, 2)


def test_needs_that_go_back_are_an_error():
    back = Need("a", lambda index: ((0, 0, 5 - index[2]), (1, 1, 6 - index[2])))
    with pytest.raises(ValueError, match="goes back along axis 2"):
        simulate([work(), work("b", needs=[back])], UNIT, 2)


def test_no_workers_are_refused():
    with pytest.raises(ConfigError, match="0 workers"):
        simulate([work()], UNIT, 0)


counts = st.tuples(*[st.integers(1, 4)] * 3)


@given(counts, counts, st.integers(1, 9), st.integers(0, 2), st.booleans(), st.floats(0.5, 5), st.integers(0, 99))
def test_every_block_runs_once_within_the_bounds_of_list_scheduling(
    first, second, workers, reach, overlap, streams, seed
):
    rng = np.random.default_rng(seed)
    sizes = [tuple(rng.uniform(0.2, 2, n) for n in shape) for shape in (first, second)]

    def around(index):
        """Blocks of the first stage about the same place as a block of the second, and `reach` more."""
        place = [i * a // b for i, a, b in zip(index, first, second, strict=True)]
        low = tuple(max(0, p - reach) for p in place)
        return low, tuple(min(a, p + reach + 1) for p, a in zip(place, first, strict=True))

    stages = [
        Work(
            name, name, shape, 0, (("warp", Amount(1.0, size)),), reads=(Amount(0.3, size),),
            writes=(Amount(0.2, size),), needs=needs,
        )
        for name, shape, size, needs in (("a", first, sizes[0], ()), ("b", second, sizes[1], (Need("a", around),)))
    ]  # fmt: skip
    rates = dataclasses.replace(UNIT, streams=streams)
    made = simulate(stages, rates, workers, overlap=overlap)
    parts = [np.stack(durations(stage, rates)) for stage in stages]
    alone = sum(p.sum() for p in parts)
    moved = sum(p[[0, 2]].sum() for p in parts)
    # Longest chain, by hand.
    ends = parts[0].sum(0).reshape(first)
    own = parts[1].sum(0).reshape(second)
    before = (ends[tuple(map(slice, *around(index)))].max() for index in np.ndindex(second))
    chain = max(e + own[index] for e, index in zip(before, np.ndindex(second), strict=True))
    assert made.chain * made.seconds == pytest.approx(max(chain, ends.max()))
    least = max(chain, moved / streams, sum(p[1].sum() for p in parts) / workers)
    slowed = max(1.0, 2 * workers / streams)
    assert least <= made.seconds * (1 + 1e-9)
    assert made.seconds <= slowed * (alone / workers + chain) * 2 + 1e-9
    if not overlap and workers <= streams:
        assert alone / workers <= made.seconds * (1 + 1e-9)
    assert simulate(stages, rates, workers, overlap=overlap) == made


def test_two_million_blocks_in_bounded_memory():
    made = plan(shape=(10000, 8000, 8000), spacing=(2, 2, 2), rates=dataclasses.replace(Rates(), streams=1e4))
    made.simulate(2)  # compiles
    tracemalloc.start()
    begin = time.perf_counter()
    found = [made.simulate(n) for n in (8, 64, 512)]
    seconds = time.perf_counter() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{made.tasks} blocks on 8, 64 and 512 workers in {seconds:.1f} s, {peak / 2**20:.0f} MiB")
    assert peak < 2**29
    times = [s.seconds for s in found]
    assert times[0] > 7.5 * times[1] * 0.95 and times[1] > times[2]
    assert all(0 < s.efficiency <= 1 for s in found)
