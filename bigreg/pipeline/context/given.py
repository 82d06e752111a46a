"""A start that is given: an affine from a file or from landmarks, or the whole map of another run.

The state of a run is its two half-way maps, mid-space to each image (see compose.py). Another run between the same two
worlds has such maps of its own. With its affine, and so its mid-space, taken over as they are, its maps are a level
before the coarsest one: what this run finds is composed onto them as onto any level's, and verified with them. As a
level's maps are sampled as finely as the level is, the ladder then begins no coarser than those maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import storage
from ...geometry import BlockGrid, Grid, Lattice, Shape
from ..store.store import RunStore, Status
from .frames import Frames

IMAGES = ("fixed", "moving")
PLACE = "start"


@dataclass(frozen=True, eq=False)
class RunStart:
    """The state of the run at `url` after its finest level: its frames' affines and the lattice of its maps."""

    url: str
    created: float
    canonical: np.ndarray
    half: np.ndarray
    lattice: Lattice


@dataclass(frozen=True, eq=False)
class GivenStart:
    """`matrix`: fixed world to moving world (4 x 4, um); `run`: where it is more than an affine."""

    path: str
    matrix: np.ndarray
    run: RunStart | None = None

    def frames(self, fixed: Grid, moving: Grid) -> Frames:
        """The frames to begin with."""
        if self.run is not None:
            return Frames(fixed, moving, self.run.canonical, self.run.half)
        return Frames.from_affine(fixed, moving, np.eye(4), self.matrix)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"path": self.path, "matrix": self.matrix.tolist()}
        if self.run is not None:
            out["run"] = {
                "url": self.run.url,
                "created": self.run.created,
                "canonical": self.run.canonical.tolist(),
                "half": self.run.half.tolist(),
                "lattice": self.run.lattice.to_json(),
            }
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> GivenStart | None:
        if data is None:
            return None
        run = data.get("run")
        if run is not None:
            matrices = (np.asarray(run[name]) for name in ("canonical", "half"))
            run = RunStart(run["url"], run["created"], *matrices, Lattice.from_json(run["lattice"]))
        return cls(data["path"], np.asarray(data["matrix"]), run)


# ---------------------------------------------------------------------------------------------------- the copied maps


def blocks(start: RunStart) -> BlockGrid:
    """The chunks of the other run's maps."""
    array = RunStore(start.url).array("levels", 0, "maps", "fixed")
    return BlockGrid(array.shape[1:], array.chunks[1:], (0, 0, 0))


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


def copy(context: Any, index: Shape) -> tuple[Status, dict[str, float]]:
    """Task: one block of the other run's maps."""
    start = context.given.run
    block = blocks(start)[index]
    box = (0, *block.start), (3, *block.stop)
    for which in IMAGES:
        values = RunStore(start.url).array("levels", 0, "maps", which).read(*box)
        context.array(PLACE, which, write=True).write(box[0], values)
    return Status.DONE, {}
