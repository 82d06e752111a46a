"""Task: the half-way maps of another run, copied, where a run begins with them (see context/given.py)."""

from __future__ import annotations

from ... import storage
from ...geometry import BlockGrid, Shape, triple
from ..context.context import IMAGES, Context
from ..context.given import PLACE, RunStart
from ..labels import label
from ..schedule.flow import Stage
from ..store.store import RunStore, Status


def stage(start: RunStart) -> Stage:
    return Stage("stages/start", label("given maps"), blocks(start).counts, copy)


def blocks(start: RunStart) -> BlockGrid:
    """The chunks of the other run's maps."""
    array = RunStore(start.url).array("levels", 0, "maps", "fixed")
    return BlockGrid(triple(array.shape[1:]), triple(array.chunks[1:]), (0, 0, 0))


def create(store: RunStore, start: RunStart) -> None:
    """Arrays for a copy of the other run's half-way maps: a run holds everything that it needs."""
    store.groups(PLACE)
    cut = blocks(start)
    for which in IMAGES:
        storage.create_array(
            store.path(PLACE, which),
            shape=(3, *cut.cells),
            dtype="float32",
            chunks=(3, *cut.core),
            dimension_names=("c", "z", "y", "x"),
            exist_ok=True,
        )


def copy(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    """One block of the other run's maps."""
    assert context.given is not None and context.given.run is not None, "the run begins with another's maps"
    start = context.given.run
    block = blocks(start)[index]
    box = (0, *block.start), (3, *block.stop)
    for which in IMAGES:
        values = RunStore(start.url).array("levels", 0, "maps", which).read(*box)
        context.array(PLACE, which, write=True).write(box[0], values)
    return Status.DONE, {}
