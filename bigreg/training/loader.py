"""Patches of the steps to come, read by threads while the network works."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from .patches import Purpose, Sampler, stream
from .sources import Patch

AHEAD = 3  # steps


class Loader:
    """Patches by step. Use as a context manager."""

    def __init__(self, sampler: Sampler, *, seed: int, first: int, count: int, steps: int, readers: int) -> None:
        """`first` and `count` say which items of each step's whole batch are this process's."""
        self.sampler, self.seed, self.items, self.steps = sampler, seed, range(first, first + count), steps
        self.threads = ThreadPoolExecutor(readers, thread_name_prefix="patches")
        self.coming: dict[int, list[Future]] = {}

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown(wait=True, cancel_futures=True)

    def keys(self, step: int) -> list[tuple[int, int]]:
        return [(step, item) for item in self.items]

    def take(self, step: int) -> list[Patch]:
        """The patches of a step; those of the next ones are begun."""
        for later in range(step, min(step + AHEAD, self.steps)):
            if later not in self.coming:
                self.coming[later] = [
                    self.threads.submit(self.sampler.draw, stream(self.seed, Purpose.DRAW, *key))
                    for key in self.keys(later)
                ]
        return [future.result() for future in self.coming.pop(step)]
