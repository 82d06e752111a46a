"""A start that is given: an affine from a file or from landmarks, or the whole map of another run.

The state of a run is its two half-way maps, mid-space to each image (see compose.py). Another run between the same two
worlds has such maps of its own. With its affine, and so its mid-space, taken over as they are, its maps are a level
before the coarsest one: what this run finds is composed onto them as onto any level's, and verified with them. As a
level's maps are sampled as finely as the level is, the ladder then begins no coarser than those maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from .. import storage
from ..config import Config
from ..errors import ConfigError, InputError
from ..geometry import BlockGrid, Grid, Lattice, Shape
from ..transforms.affine import about, apply_affine
from ..transforms.files import open_maps
from ..transforms.maps import Frame
from .frames import Frames
from .ladder import ladder
from .store import RunStore, Status

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
        """The frames to begin with. Raises InputError where the affine has no half."""
        if self.run is not None:
            return Frames(fixed, moving, self.run.canonical, self.run.half)
        canonical = _canonical(self.matrix, moving)
        try:
            return Frames.from_affine(fixed, moving, canonical, np.linalg.inv(canonical) @ self.matrix)
        except ValueError as error:
            raise InputError(f"start '{self.path}': {error}") from error

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


def beginning(config: Config, volumes: Mapping[str, Any]) -> tuple[Config, GivenStart | None]:
    """The given start, and the configuration with its path made absolute and a ladder that fits it.

    Raises InputError as `given_start` does, ConfigError where a level would be too coarse for the maps of a run.
    """
    if config.affine.start is None:
        return config, None
    local = storage.local_path(config.affine.start)
    path = config.affine.start if local is None else str(local)
    config = config.model_copy(update={"affine": config.affine.model_copy(update={"start": path})})
    given = given_start(config, volumes)
    if given.run is None:
        return config, given
    frames = given.frames(*(volumes[w].grid() for w in IMAGES))
    wanted = np.asarray(given.run.lattice.grid.spacing) * (1 + 1e-6)

    def trimmed(coarsest: int) -> Config:
        return config.model_copy(update={"ladder": config.ladder.model_copy(update={"coarsest": coarsest})})

    coarsest = config.ladder.coarsest or max(p.downsample for p in ladder(frames, config))
    found = coarsest
    while found >= config.ladder.finest and (ladder(frames, trimmed(found))[0].lattice.grid.spacing > wanted).any():
        found //= 2
    if found < config.ladder.finest or (config.ladder.coarsest is not None and found < coarsest):
        asked = "finest" if found < config.ladder.finest else "coarsest"
        raise ConfigError(
            f"ladder.{asked} {getattr(config.ladder, asked)} would lose what the start '{path}' holds: its maps are "
            f"sampled every {np.asarray(given.run.lattice.grid.spacing).round(3).tolist()} um; set a smaller one, more "
            "ladder.samples, or start from its affine alone"
        )
    return trimmed(found), given


def given_start(config: Config, volumes: Mapping[str, Any]) -> GivenStart | None:
    """What `affine.start` names, for two images; None where nothing is given.

    Raises InputError where it is no start: displacements of another program, a run that is not finished or whose maps
    do not cover the images, an affine that leaves them apart.
    """
    from .transform import axes_of, opened, unit_um

    path = config.affine.start
    if path is None:
        return None
    ends = [Frame(volumes[w].grid(), volumes[w].orientation) for w in IMAGES]
    part = opened(path)
    if not isinstance(part, tuple):
        return _of_run(path, part, *(end.grid for end in ends))
    file, backwards = part
    if axes_of(config.affine.start_axes) == "xyz":
        ends = [Frame(end.grid) for end in ends]
    found, _ = open_maps(file, *(ends[::-1] if backwards else ends), unit_um(config.affine.start_unit))
    if found.matrix is None:
        raise InputError(
            f"start '{path}' holds displacements; start from its affine, or from the run that they come from"
        )
    start = GivenStart(path, np.linalg.inv(found.matrix) if backwards else found.matrix)
    _require_overlap(start, *(end.grid for end in ends))
    return start


def _of_run(path: str, part: Any, fixed: Grid, moving: Grid) -> GivenStart:
    from .run import Run

    if not isinstance(part, Run):
        raise InputError(f"start '{path}': a run is a start forwards only; exchange fixed and moving, or start from it")
    part._require_fields()
    context = part._context()
    lattice = context.levels[0].lattice
    url = part.url if storage.local_path(part.url) is None else str(storage.local_path(part.url))
    run = RunStart(url, part.store.attributes["created"], context.frames.canonical, context.frames.half, lattice)
    start = GivenStart(path, context.frames.affine, run)
    low, high = start.frames(fixed, moving).domain()
    first = np.asarray(lattice.origin)
    last = first + np.multiply(lattice.cells, lattice.spacing)
    if (low < first - 1e-3).any() or (high > last + 1e-3).any():
        raise InputError(
            f"start '{path}': its maps span {first} to {last} um half-way, the images {low} to {high}: it was made of "
            f"smaller images; start from its affine alone (bigreg export {path} start.txt)"
        )
    return start


def _canonical(matrix: np.ndarray, moving: Grid) -> np.ndarray:
    """The signed permutation of axes that is nearest to an affine: what is left has half of it."""
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    turn = u @ vt
    rows, columns = linear_sum_assignment(-np.abs(turn))
    linear = np.zeros((3, 3))
    linear[rows, columns] = np.sign(turn[rows, columns])
    if np.array_equal(linear, np.eye(3)):
        return np.eye(4)
    centre = apply_affine(moving.affine, (np.asarray(moving.shape) - 1) / 2)
    return about(linear, np.abs(linear).T @ centre, centre)


def _require_overlap(start: GivenStart, fixed: Grid, moving: Grid) -> None:
    frames = start.frames(fixed, moving)
    boxes = [frames.grid(w).bounds(frames.to_mid(w), faces=True) for w in IMAGES]
    if (np.minimum(boxes[0][1], boxes[1][1]) <= np.maximum(boxes[0][0], boxes[1][0])).any():
        raise InputError(
            f"start '{start.path}' leaves fixed and moving apart: half-way they span {boxes[0]} and {boxes[1]} um; "
            "it must lead from fixed to moving, in um (ITK: --set affine.start_unit=...), ':inverse' turns it round"
        )


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
