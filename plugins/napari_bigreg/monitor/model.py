"""How a run goes on, as a monitor shows it: read from the store again and again, from any machine. No Qt."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

import bigreg
from bigreg.errors import BigregError
from bigreg.geometry import triple
from bigreg.quality.verdict import roughly

WINDOW_SECONDS = 60.0
"""Over which the rate is taken: long enough that blocks of seconds count, short enough to see a worker go."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A run at one moment.

    stage, blocks, statuses   the stage that is shown, how its blocks lie, uint8 by block; None before there is one
    rate                      blocks a second over the last minute; None where that is not known yet
    holder                    who works on it: host, process; None where nobody does
    """

    status: Any
    stages: dict[str, Any]
    stage: str | None
    blocks: Any
    statuses: np.ndarray | None
    rate: float | None
    holder: dict | None

    @property
    def fraction(self) -> float:
        return self.status.done / self.status.total if self.status.total else 0.0

    @property
    def failed(self) -> list[tuple[int, int, int]]:
        """Indices of the failed blocks of the stage that is shown."""
        if self.statuses is None:
            return []
        return [triple(int(i) for i in index) for index in np.argwhere(self.statuses == 4)]

    @property
    def text(self) -> str:
        """One line: state, blocks, rate, time left, workers."""
        s = self.status
        failed = sum(stage.failed for stage in s.stages)
        of = "" if s.total is None else f" of {s.total}"
        parts = [f"{s.state}: {s.done}{of} blocks"]
        if failed:
            parts.append(f"{failed} failed")
        if s.state == "running" and self.holder is None:
            parts.append("but nobody works on it: resume it")
        elif s.state == "running":
            if self.rate is not None:
                parts.append(f"{self.rate:.3g} per second")
            if s.seconds_left is not None:
                parts.append(f"about {roughly(s.seconds_left)} left")
            parts.append(f"{s.workers} worker{'s' * (s.workers != 1)}")
        return ", ".join(parts)


class MonitorModel:
    """The run at `url`. `shown` is the stage to show; None follows the run. Raises InputError where there is no run."""

    def __init__(self, url: str) -> None:
        self.run = bigreg.open_run(url)
        self.url = self.run.url
        self.shown: str | None = None
        self._history: deque[tuple[float, int]] = deque()

    def poll(self) -> Snapshot:
        """The run as it is now. Reads a few small arrays; call it from a thread."""
        status = self.run.status()
        stages = self.run.blocks()
        rate = self._rate(status)
        stage = self.shown if self.shown in stages else self._current(status, stages)
        statuses = None if stage is None else self.run.block_status(stage)
        running = status.state in ("running", "planned")
        return Snapshot(
            status,
            stages,
            stage,
            None if stage is None else stages.get(stage),
            statuses,
            rate,
            self.run.held_by() if running else None,
        )

    def _rate(self, status: Any) -> float | None:
        now = time.monotonic()
        if status.state != "running":
            self._history.clear()
            return None
        if self._history and status.done < self._history[-1][1]:  # blocks were taken back
            self._history.clear()
        self._history.append((now, status.done))
        while now - self._history[0][0] > WINDOW_SECONDS:
            self._history.popleft()
        (first, before), (last, after) = self._history[0], self._history[-1]
        return (after - before) / (last - first) if after > before and last > first else None

    @staticmethod
    def _current(status: Any, stages: dict[str, Any]) -> str | None:
        """The last stage in which anything goes on or failed; else the last that has begun, else the first."""
        known = [s for s in status.stages if s.name in stages]
        busy = [s for s in known if s.running or s.failed]
        begun = [s for s in known if s.done or s.blank]
        if status.state == "finished":
            begun = [s for s in known if s.name == "levels/0"] or begun
        chosen = busy[-1:] or begun[-1:] or known[:1]
        return chosen[0].name if chosen else None

    def index_at(self, point: Any, snapshot: Snapshot) -> tuple[int, int, int] | None:
        """The block at a place of the fixed world (um, z y x); None outside of all."""
        if snapshot.blocks is None:
            return None
        grid = snapshot.blocks.grid
        index = np.rint(grid.world_to_index(np.asarray(point, dtype=float)[None])[0]).astype(int)
        if (index < 0).any() or (index >= grid.shape).any():
            return None
        return triple(int(i) for i in index)

    def centre_of(self, index: Any, snapshot: Snapshot) -> np.ndarray:
        """The middle of a block in the fixed world, um (z, y, x)."""
        return snapshot.blocks.grid.index_to_world(np.asarray(index, dtype=float)[None])[0]

    def describe(self, stage: str, index: tuple[int, int, int]) -> Any:
        """All that is known of a block."""
        return self.run.block(stage, index)

    def patches(self, stage: str, index: tuple[int, int, int]) -> Any | None:
        """The images on a block; None where they are not known yet."""
        try:
            return self.run.patches(stage, index)
        except BigregError:
            return None

    def stop(self) -> dict:
        """Ask whoever works on the run to stop. Raises OutputError where nobody does."""
        return self.run.request_stop()
