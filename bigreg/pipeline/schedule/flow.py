"""Which block can run next: each stage is a flow of blocks in C order, a block is ready once what it reads is done.

Nothing is kept a block but a byte of status and, of those to do, the index; what a block reads is a box of blocks of
another stage and is worked out when its turn comes. So a plan of a million blocks is there at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...geometry import BlockGrid, Shape, triple
from ..store.store import Progress, Status

ONE = (1, 1, 1)
"""The blocks of a stage that has one."""
WINDOW = 64
"""Blocks of a stage that may be passed over because what they read is not done yet."""


@dataclass(frozen=True)
class Need:
    """What the blocks of one stage read of another.

    stage   name of the other stage
    box     block index -> (first, last + 1) block indices of the other stage; along an axis it depends on the block's
            place along that axis alone, and it does not go back
    """

    stage: str
    box: Callable[[Shape], tuple[Shape, Shape]]


def same_block(index: Shape) -> tuple[Shape, Shape]:
    """The box of the block itself, for a stage of the same blocks."""
    return index, triple(i + 1 for i in index)


def of_finer(fine: BlockGrid, blocks: BlockGrid) -> Callable[[Shape], tuple[Shape, Shape]]:
    """What a block of a pyramid level reads of the level above."""
    ratio = [max(1, round(a / b)) for a, b in zip(fine.cells, blocks.cells, strict=True)]

    def box(index: Shape) -> tuple[Shape, Shape]:
        block = blocks[index]
        return fine.touching(*(tuple(a * r for a, r in zip(c, ratio, strict=True)) for c in (block.start, block.stop)))

    return box


@dataclass(frozen=True)
class Stage:
    """One step of a run: `task(context, *arguments, index)` for every block index below `counts`.

    name    also the place in the run store of its status and metrics
    needs   what must be done before a block can be: of stages that run at the same time, the others are done
    optional  whether a block that fails may be treated as blank, where the user accepts that
    halts   metric that is above 0 where what needs this stage must not start any more
    """

    name: str
    title: str
    counts: Shape
    task: Callable[..., tuple[Status, dict[str, float]]]
    arguments: tuple = ()
    metrics: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    halts: str | None = None
    optional: bool = False

    @property
    def blocks(self) -> int:
        return math.prod(self.counts)


class Flow:
    """The blocks of one stage that are still to be run."""

    def __init__(self, stage: Stage, progress: Progress) -> None:
        self.stage = stage
        self.progress = progress
        self.finished = (progress.status == Status.DONE) | (progress.status == Status.BLANK)
        self.todo = np.argwhere(~self.finished).astype(np.int32)
        self.done = int(self.finished.sum())
        self.before = self.done
        self.running = 0
        self._next = 0
        self._passed: list[Shape] = []
        self._seen = -1
        self.halted = stage.halts is not None and bool(np.nansum(progress.metric(stage.halts)[self.finished]) > 0)

    @property
    def complete(self) -> bool:
        return self.done == self.stage.blocks

    def finish(self, index: Shape, metrics: Mapping[str, float]) -> None:
        """A block is done."""
        self.finished[index] = True
        self.done += 1
        self.halted |= metrics.get(self.stage.halts or "", 0) > 0

    def ready(self, index: Shape, flows: Mapping[str, Flow]) -> bool:
        for need in self.stage.needs:
            flow = flows.get(need.stage)
            if flow is None or flow.complete:
                continue
            first, last = need.box(index)
            if not flow.finished[tuple(slice(a, b) for a, b in zip(first, last, strict=True))].all():
                return False
        return True

    def take(self, flows: Mapping[str, Flow]) -> Shape | None:
        """The next block that can run, or None."""
        others = [flows[n.stage] for n in self.stage.needs if n.stage in flows]
        if any(flow.halted for flow in others):
            return None
        progress = sum(flow.done for flow in others)
        if progress != self._seen:
            for place, index in enumerate(self._passed):
                if self.ready(index, flows):
                    del self._passed[place]
                    return index
            self._seen = progress
        while self._next < len(self.todo) and len(self._passed) < WINDOW:
            index = triple(int(i) for i in self.todo[self._next])
            self._next += 1
            if self.ready(index, flows):
                return index
            self._passed.append(index)
        return None
