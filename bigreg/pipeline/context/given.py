"""A start that is given: an affine from a file or from landmarks, or the whole map of another run.

The state of a run is its two half-way maps, mid-space to each image (see tasks/compose.py). Another run between the
same two worlds has such maps of its own. With its affine, and so its mid-space, taken over as they are, its maps are a
level before the coarsest one: what this run finds is composed onto them as onto any level's, and verified with them. As
a level's maps are sampled as finely as the level is, the ladder then begins no coarser than those maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...geometry import Grid, Lattice
from .frames import Frames

PLACE = "start"
"""Where a run keeps the maps that it begins with."""


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
        run, known = None, data.get("run")
        if known is not None:
            canonical, half = (np.asarray(known[name]) for name in ("canonical", "half"))
            run = RunStart(known["url"], known["created"], canonical, half, Lattice.from_json(known["lattice"]))
        return cls(data["path"], np.asarray(data["matrix"]), run)
