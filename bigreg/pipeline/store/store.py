"""The run store: a Zarr v3 group that holds everything about a run, its progress included.

Progress is arrays: one uint8 of status and one float32 of each metric a block. Only the client writes those, after a
task has answered, so a status never runs ahead of the data it speaks of; tasks write only chunks that are their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np

from ... import storage
from ...errors import InputError
from ...geometry import Shape

FORMAT = 2
"""Version of the layout; a store of another one is refused by name."""
SMALLER = "smaller"
"""The attribute that says on how many blocks of each stage memory ran out: they were computed in smaller pieces."""
DEVICES = "devices"
"""The attribute that lists what has computed a run: "CPU", or models of GPUs."""
EVALUATION = "evaluation"
"""Where a run keeps its last evaluation."""
FOUND_LABELS = "labels"
"""The attribute of a run with labels that says which of them are compared, and their weights."""
FOUND = "found_pairs"
"""The attribute of a run that says what came of its search for pairs of points (see tasks/pairing.py)."""


class Status(IntEnum):
    """What is known of a block."""

    TODO = 0
    RUNNING = 1
    DONE = 2
    BLANK = 3
    FAILED = 4


class RunStore:
    """Attributes and places of a run."""

    def __init__(self, url: str) -> None:
        self.url = str(url)

    @property
    def again(self) -> str:
        """How to go on with it, for messages."""
        return f"`bigreg resume {self.url}`"

    def path(self, *parts: str | int) -> str:
        return storage.join(self.url, *(str(p) for p in parts))

    @property
    def attributes(self) -> dict[str, Any]:
        """The run's attributes. Raises InputError where the place holds no run or one of another version."""
        data = storage.read_attributes(self.url) if storage.exists(self.url) else {}
        run = data.get("bigreg")
        if not isinstance(run, dict) or "format" not in run:
            raise InputError(f"'{self.url}' is not a bigreg run; check the path")
        if run["format"] != FORMAT:
            raise InputError(
                f"'{self.url}' was written in run format {run['format']}, this bigreg reads {FORMAT}; "
                f"open it with bigreg {run.get('versions', {}).get('bigreg', '')}"
            )
        return run

    @property
    def images(self) -> dict[str, Any]:
        """How "fixed" and "moving" are opened; None for an array that is not kept yet. What the run keeps of arrays is
        found in it wherever it was moved to."""
        run = self.attributes
        images = dict(run["images"])
        for which, image in images.items():
            if image is not None and run["identities"][which]["path"] is None:
                images[which] = {**image, "path": self.kept_input(which)}
        return images

    def kept_input(self, which: str) -> str:
        """Where the run keeps an image that was an array in memory."""
        return self.path("inputs", f"{which}.ome.zarr")

    def create(self, attributes: dict[str, Any]) -> None:
        storage.create_group(self.url, {"bigreg": {"format": FORMAT, **attributes}})

    def update(self, **values: Any) -> None:
        """Replace some attributes, atomically. Only the client does so."""
        run = self.attributes
        run.update(values)
        storage.write_attributes(self.url, {"bigreg": run})

    def groups(self, place: str) -> None:
        """Make the groups down to `place`, so that any Zarr reader can walk the run."""
        parts = place.split("/")
        for depth in range(1, len(parts) + 1):
            storage.create_group(self.path(*parts[:depth]), exist_ok=True)

    def array(self, *parts: str | int, write: bool = False, constant: bool = False) -> storage.Array:
        return storage.open_array(self.path(*parts), write=write, constant=constant)


class Progress:
    """Status, metrics and workers of one stage, held by the client and written to the store a chunk at a time."""

    CHUNK = 64
    FLUSH_SECONDS = 0.5

    def __init__(self, store: RunStore, place: str, counts: Shape, metrics: Sequence[str]) -> None:
        self.counts = counts
        self.chunk = tuple(min(n, self.CHUNK) for n in counts)
        store.groups(f"{place}/metrics")
        kinds = {"status": "uint8", "worker": "uint32", **{f"metrics/{name}": "float32" for name in metrics}}
        known = store.path(place, "status")
        if storage.exists(known) and storage.open_array(known).shape != tuple(counts):
            # An earlier version cut this stage into other blocks: it begins anew.
            for name in kinds:
                storage.remove(store.path(place, name))
        self.arrays = {
            name: storage.create_array(
                store.path(place, name),
                shape=counts,
                dtype=kind,
                chunks=self.chunk,
                fill_value=float("nan") if kind == "float32" else 0,
                dimension_names=("z", "y", "x"),
                exist_ok=True,
            )
            for name, kind in kinds.items()
        }
        self.values = {name: array[...] for name, array in self.arrays.items()}
        self._dirty: set[tuple[int, ...]] = set()
        self._flushed = 0.0

    @property
    def status(self) -> np.ndarray:
        return self.values["status"]

    def metric(self, name: str) -> np.ndarray:
        return self.values[f"metrics/{name}"]

    def unfinished(self) -> np.ndarray:
        """(N, 3) indices of the blocks that are neither done nor blank, in C order."""
        return np.argwhere((self.status != Status.DONE) & (self.status != Status.BLANK))

    def set(self, index: Shape, status: Status, metrics: dict[str, float] | None = None, worker: int = 0) -> None:
        """`worker`: the place, from 1, of who did it among the run's attribute `workers`."""
        self.status[index] = status
        self.values["worker"][index] = worker
        for name, value in (metrics or {}).items():
            self.values[f"metrics/{name}"][index] = value
        self._dirty.add(tuple(i // c for i, c in zip(index, self.chunk, strict=True)))
        if time.monotonic() - self._flushed > self.FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what has changed: metrics first, so that a block which says it is done has them."""
        for chunk in sorted(self._dirty):
            start = tuple(i * c for i, c in zip(chunk, self.chunk, strict=True))
            box = tuple(slice(a, a + c) for a, c in zip(start, self.chunk, strict=True))
            for name in sorted(self.arrays, key=lambda n: n == "status"):
                self.arrays[name].write(start, self.values[name][box])
        self._dirty.clear()
        self._flushed = time.monotonic()


def is_run(path: str) -> bool:
    """Whether `path` is a run."""
    local = storage.local_path(path)
    node = None if local is not None and not local.is_dir() else storage.find_node(path)
    return node is not None and "format" in node.attributes.get("bigreg", {})


def complete(status_url: str) -> bool:
    """Whether a stage's status array is there and says of all blocks that they are done or blank."""
    if not storage.exists(status_url):
        return False
    status = storage.open_array(status_url)[...]
    return bool(((status == Status.DONE) | (status == Status.BLANK)).all())


def require_fields(store: RunStore) -> None:
    """Raise InputError where a run has not come as far as its fields."""
    if not complete(store.path("stages/check", "status")):
        raise InputError(
            f"'{store.url}' has no fields yet (it is {store.attributes['state']}); `bigreg resume` it first"
        )
