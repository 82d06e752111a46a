"""What a run would do on N workers: every block, one event after another.

Blocks have the durations of their true sizes (those at a border are smaller), start as soon as the blocks they read are
done, wait for a worker, for the scheduler and for the storage. What is left out: failures, blank blocks, retries of
damped levels, the network between scheduler and workers (hidden by the blocks in reserve, which go to whoever is free
first, as Dask steals them), and who has which chunk cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import ConfigError
from .events import run_phase
from .rates import Rates
from .workload import Amount, Work, box_spans

QUEUED = 3
"""Blocks that are handed out for each worker: one that runs and two in reserve, as the driver has it."""
WINDOW = 64
"""Blocks of a stage that the driver passes over because what they read is not done yet."""


@dataclass(frozen=True)
class Simulation:
    """How N workers would fare.

    seconds      wall time, start of the workers included
    efficiency   seconds of one worker that is never kept waiting, over workers times seconds
    compute, storage, scheduler   how much of the wall time each was busy (compute: of all workers together)
    chain        longest chain of blocks that wait for one another, over the wall time
    phases       (stages that ran into one another, seconds)
    stages       {name: (begin, end)} in seconds from the start
    """

    workers: int
    seconds: float
    efficiency: float
    compute: float
    storage: float
    scheduler: float
    chain: float
    phases: tuple[tuple[tuple[str, ...], float], ...]
    stages: dict[str, tuple[float, float]]

    @property
    def binds(self) -> str:
        """What the time is spent on most: more of anything else would not help."""
        parts = {
            "compute": self.compute, "storage": self.storage, "scheduler": self.scheduler, "critical path": self.chain,
        }  # fmt: skip
        return max(parts, key=lambda part: parts[part])


def simulate(
    stages: Sequence[Work],
    rates: Rates,
    workers: int,
    *,
    streaming: bool = True,
    overlap: bool = False,
    queued: int = QUEUED,
    window: int = WINDOW,
) -> Simulation:
    """Simulate a run's stages on some workers.

    streaming   blocks of a phase start once what they read is done; else a stage begins when the one before is over
    overlap     a worker reads the next block and writes the last one while it computes

    Raises ConfigError for less than one worker, ValueError where blocks wait for one another in a circle.
    """
    if workers < 1:
        raise ConfigError(f"{workers} workers cannot be simulated; give at least 1")
    now = rates.start
    chain, alone, busy, moved, blocks = rates.start, 0.0, 0.0, 0.0, 0
    phases, when = [], {}
    for number, phase in enumerate(_phases(stages, streaming)):
        arrays = _Arrays.of(phase, rates)
        seconds, longest, begin, end, done = run_phase(
            arrays.first, arrays.counts, arrays.links, arrays.tables, arrays.unmet.copy(), arrays.read, arrays.compute,
            arrays.write, workers, queued, overlap, float(rates.streams), rates.schedule, window,
        )  # fmt: skip
        if done < len(arrays.unmet):
            names = ", ".join(w.name for w in phase)
            raise ValueError(f"phase {number} ({names}): {len(arrays.unmet) - done} blocks wait for one another")
        before = now + rates.stage * len(phase)
        for work, b, e in zip(phase, begin, end, strict=True):
            when[work.name] = (before + float(b), before + float(e))
        phases.append((tuple(w.name for w in phase), float(seconds) + before - now))
        now = before + float(seconds)
        chain += float(longest) + rates.stage * len(phase)
        compute = float(arrays.compute.sum())
        transfer = float(arrays.read.sum() + arrays.write.sum())
        busy += compute + (0.0 if overlap else transfer)
        alone += max(compute, transfer) if overlap else compute + transfer
        moved += transfer
        blocks += len(arrays.unmet)
    return Simulation(
        workers,
        now,
        alone / (workers * now),
        busy / (workers * now),
        moved / rates.streams / now,
        blocks * rates.schedule / now,
        chain / now,
        tuple(phases),
        when,
    )


def _phases(stages: Sequence[Work], streaming: bool) -> list[list[Work]]:
    found: list[list[Work]] = []
    for work in stages:
        if not streaming or not found or found[-1][0].phase != work.phase:
            found.append([])
        found[-1].append(work)
    return found


def durations(work: Work, rates: Rates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds to read, compute and write every block (C order), transfers alone at full speed."""

    def total(amounts: Sequence[Amount], rate: float) -> np.ndarray:
        return sum((rate * a.of_blocks() for a in amounts), np.zeros(work.blocks))

    read = total((*work.reads, *work.source), rates.read_seconds)
    compute = total(work.reads, rates.decode_seconds) + total(work.source, rates.source_decode_seconds)
    compute += total(work.writes, rates.encode_seconds)
    for what, amount in work.does:
        compute += rates.of(what, work.looks) * amount.of_blocks()
    return read, compute, total(work.writes, rates.write_seconds)


@dataclass(frozen=True, eq=False)
class _Arrays:
    """One phase as the event loop takes it."""

    first: np.ndarray
    counts: np.ndarray
    links: np.ndarray
    tables: np.ndarray
    unmet: np.ndarray
    read: np.ndarray
    compute: np.ndarray
    write: np.ndarray

    @classmethod
    def of(cls, phase: Sequence[Work], rates: Rates) -> _Arrays:
        place = {work.name: number for number, work in enumerate(phase)}
        counts = np.array([w.counts for w in phase], np.int64)
        first = np.concatenate([[0], np.cumsum(counts.prod(1))]).astype(np.int64)
        unmet = np.zeros(first[-1], np.int32)
        links, tables, size = [], [], 0
        for reader, work in enumerate(phase):
            for need in work.needs:
                if need.stage not in place:
                    continue
                spans = box_spans(need, work.counts)
                waits = Amount.of(1.0, spans).of_blocks()
                unmet[first[reader] : first[reader + 1]] += waits.astype(np.int32)
                row = [place[need.stage], reader]
                for axis, (low, high) in enumerate(spans):
                    if (np.diff(low) < 0).any() or (np.diff(high) < 0).any():
                        raise ValueError(
                            f"{work.name}: what its blocks read of {need.stage} goes back along axis {axis}"
                        )
                    # Block i is read by those from the first whose box ends beyond it to the last that begins there.
                    own = np.arange(counts[row[0], axis])
                    row.append(size)
                    tables += [np.searchsorted(high, own, "right"), np.searchsorted(low, own, "right")]
                    size += 2 * len(own)
                links.append(row)
        read, compute, write = (np.concatenate(v) for v in zip(*(durations(w, rates) for w in phase), strict=True))
        return cls(
            first,
            counts,
            np.array(links, np.int64).reshape(-1, 5),
            np.concatenate(tables).astype(np.int64) if tables else np.zeros(0, np.int64),
            unmet,
            read,
            compute,
            write,
        )
