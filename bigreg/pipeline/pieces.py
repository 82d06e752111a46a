"""Runs of pieces as one map: tissue that is torn apart, hemispheres that were split.

Each piece is a run of the same two images with its own mask. A label image in the frame of one of them says which
piece is where. What is stored is a copy of the labels and where the runs are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import storage
from ..errors import ConfigError, InputError, OutputError
from ..geometry import Grid
from ..points import Column
from ..transforms.maps import Map
from ..transforms.pieces import CONTESTED, Claimed, Labels, Split
from ..volumes import Volume, convert, open_volume
from ..volumes.convert import boxes
from .context.masks import lying, require_overlap
from .results.likened import warn_of_extent
from .results.transform import Inverse, Transform, checked
from .run import Run
from .store.inputs import INVERSE, as_volume, require_one_plane
from .store.store import is_run
from .tasks.fields import DIRECTIONS

logger = logging.getLogger(__name__)
KEY = "pieces"
LABELS = "labels.ome.zarr"
BOX = 128  # voxels along an axis of the labels that are counted at once
PROBES = 2000
"""About as many voxels of each piece are taken there and back when runs are joined."""
FRAMES = ("fixed", "moving")


@dataclass(frozen=True)
class Piece:
    """Figures of a piece, measured when runs are joined.

    voxels      of the label image
    outside     share of its points that its run puts outside of the other image
    overlap     share that another piece claims too, and gets
    contested   share that another piece claims too where both are sure: the runs contradict each other
    """

    label: int
    run: str
    voxels: int
    outside: float
    overlap: float
    contested: float


class Pieces(Transform):
    """Runs side by side, each where its label is: what `pieces` has stored at a place.

    In the frame of the labels, a point is mapped by the run of the label that it lies in; label 0 has no run. On
    the way back a point belongs to the piece whose run brings it into that piece's label; where two do so, to the one
    that it is deeper in (see `transforms.pieces.Claimed`).

    labels   of the pieces, in the order of their runs; frame: in which of the two frames the label image lies
    Raises InputError where there are none.
    """

    def __init__(self, path: str) -> None:
        self.url = str(path)
        known = (storage.read_attributes(self.url) if storage.exists(self.url) else {}).get("bigreg") or {}
        if KEY not in known:
            raise InputError(f"'{self.url}' holds no joined pieces; check the path")
        self._known: dict[str, Any] = known[KEY]
        self.labels: tuple[int, ...] = tuple(self._known["labels"])
        self.frame: str = self._known["frame"]

    def __repr__(self) -> str:
        return f"Pieces('{self.url}')"

    def __reduce__(self) -> tuple[Any, ...]:
        return Pieces, (self.url,)

    def identity(self) -> str:
        runs = ", ".join(part.identity() for part in self.parts)
        return f"Pieces('{self.url}', {self._known['created']}, {runs})"

    @cached_property
    def parts(self) -> tuple[Transform, ...]:
        """The runs, in the order of `labels`. Raises InputError where one is no longer there."""
        return tuple(_run(path) for path in self._known["runs"])

    def frame_image(self, frame: str) -> Volume | None:
        return self.parts[0].frame_image(frame)

    def label_image(self) -> Volume:
        """A copy of the labels, as they were joined."""
        return open_volume(storage.join(self.url, LABELS), name="labels")

    def summary(self) -> list[Piece]:
        """The figures of each piece, in the order of `labels`."""
        return [Piece(**row) for row in self._known["summary"]]

    def map(self, direction: str = "fixed_to_moving") -> Map:
        where = Labels(self.label_image().read, Grid.from_json(self._known["grid"]))
        step = _step(self.parts, self.labels, where, self.frame, direction)
        return Map((step,), step.maps[0].source, step.maps[0].target)

    def risk_at(self, points: np.ndarray) -> np.ndarray:
        return self._of_parts(points, lambda part, some: part.risk_at(some), ())

    def sigma_at(self, points: np.ndarray) -> np.ndarray:
        return self._of_parts(points, lambda part, some: part.sigma_at(some), (3,))

    def sigma_columns(self, direction: str) -> dict[str, Column]:
        """The columns of each run, for the points in its piece."""
        each = [part.sigma_columns(direction) for part in self.parts]
        forth = checked(direction) == DIRECTIONS[0]
        # The columns are asked for the same points in turn.
        last: tuple[np.ndarray, dict[str, np.ndarray]] | None = None

        def joined(given: np.ndarray, mapped: np.ndarray, there: np.ndarray) -> dict[str, np.ndarray]:
            nonlocal last
            if last is None or last[0] is not given:
                out = {name: np.full(len(given), np.nan) for name in each[0]}
                chosen = self._chosen(given if forth else mapped)
                for number, columns in enumerate(each):
                    rows = np.flatnonzero(chosen == number)
                    own = given[rows], mapped[rows], there[rows]
                    for name, column in columns.items() if len(rows) else ():
                        out[name][rows] = column(*own)
                last = given, out
            return last[1]

        def column(name: str) -> Column:
            return lambda given, mapped, there: joined(given, mapped, there)[name]

        return {name: column(name) for name in each[0]}

    def _chosen(self, points: np.ndarray) -> np.ndarray:
        """The number of the piece of points of the fixed frame."""
        (choice,) = self.map().steps
        assert isinstance(choice, Split | Claimed)
        return choice.chosen(np.asarray(points, dtype=float))

    def _of_parts(
        self, points: np.ndarray, ask: Callable[[Transform, np.ndarray], np.ndarray], shape: tuple[int, ...]
    ) -> np.ndarray:
        """What each run says of those of the points that are its own; NaN for those of none."""
        points = np.asarray(points, dtype=float)
        out, chosen = np.full((len(points), *shape), np.nan), self._chosen(points)
        for number, part in enumerate(self.parts):
            rows = np.flatnonzero(chosen == number)
            out[rows] = ask(part, points[rows])
        return out


def is_pieces(path: str) -> bool:
    """Whether joined pieces are there."""
    local = storage.local_path(path)
    node = None if local is not None and not local.is_dir() else storage.find_node(path)
    return node is not None and KEY in (node.attributes.get("bigreg") or {})


def pieces(labels: Any, runs: Mapping[int, Any] | Sequence[Any], *, out: str, frame: str = "fixed") -> Pieces:
    """Join runs of one pair of images, each of which is right in one piece, and store the result in `out`.

    labels   a label image, or its path: on any grid in the frame of the fixed image, or of the moving one, as `frame`
             says; where its file states no voxel size, voxel on voxel of that image or of a whole number of them
    runs     by label; a sequence is those of labels 1, 2, ... (":inverse" after a path goes backwards)
    Labels of the image that have no run are in no piece, as label 0 is. Raises InputError where a run or the labels do
    not fit, OutputError where something is at `out`.
    """
    if frame not in FRAMES:
        raise ConfigError(f"frame {frame!r} is unknown; use {' or '.join(FRAMES)}")
    given = dict(runs) if isinstance(runs, Mapping) else dict(enumerate(runs, start=1))
    if not given or min(given) < 1:
        raise InputError(f"pieces have labels from 1 on, each with its run; got {sorted(given) or 'none'}")
    paths = [_path(run) for run in given.values()]
    parts = [_run(path) for path in paths]
    _require_alike(paths, parts)
    image = parts[0].frame_image(frame)
    assert image is not None, "a run knows its images"
    volume, grid = _labels_on(labels, image)
    if storage.exists(out):
        raise OutputError(f"'{out}' exists already; choose another output or remove it")
    storage.create_group(out)
    try:
        known = {
            "labels": list(given), "runs": paths, "frame": frame, "grid": grid.to_json(), "created": time.time(),
        }  # fmt: skip
        stored = convert(volume, storage.join(out, LABELS), labels=True)
        summary = [
            asdict(piece) for piece in _summary(stored, grid, frame, dict(zip(given, paths, strict=True)), parts)
        ]
        storage.write_attributes(out, {"bigreg": {KEY: {**known, "summary": summary}}})
    except BaseException:
        storage.remove(out)
        raise
    return Pieces(out)


def _path(run: Any) -> str:
    """Where a run is, absolute, with ":inverse" where it goes backwards."""
    if isinstance(run, Inverse):
        path = _path(run.inverse)
        return path.removesuffix(INVERSE) if path.endswith(INVERSE) else f"{path}{INVERSE}"
    text = run.url if isinstance(run, Run) else str(run)
    path = text.removesuffix(INVERSE)
    local = storage.local_path(path)
    return f"{path if local is None else local.absolute()}{text[len(path) :]}"


def _run(path: str) -> Transform:
    bare = path.removesuffix(INVERSE)
    if not is_run(bare):
        raise InputError(f"'{bare}' is not a bigreg run, and a piece is one; check the path")
    return Run(bare).inverse if path.endswith(INVERSE) else Run(bare)


def _require_alike(paths: Sequence[str], parts: Sequence[Transform]) -> None:
    """Raise InputError where runs are not finished, or not of the same two spaces."""
    first = parts[0].map()
    for path, part in zip(paths[1:], parts[1:], strict=True):
        other = part.map()
        for which, a, b in (("fixed", first.source, other.source), ("moving", first.target, other.target)):
            if a.grid != b.grid:
                raise InputError(
                    f"the {which} images of '{paths[0]}' ({_told(a.grid)}) and '{path}' ({_told(b.grid)}) differ; "
                    "register the same two images once for each piece, each time with the mask of that piece"
                )


def _told(grid: Grid | None) -> str:
    return "unknown" if grid is None else f"{grid.shape}, spacing {tuple(round(s, 4) for s in grid.spacing)} µm"


def _labels_on(labels: Any, image: Volume) -> tuple[Volume, Grid]:
    if isinstance(labels, str) or hasattr(labels, "__fspath__"):
        volume, grid = lying(str(labels), "labels", image)
    else:
        volume = as_volume(labels, "labels")
        grid = volume.grid()
    require_one_plane(volume)
    if volume.dtype.kind not in "iub":
        raise InputError(f"{volume} holds {volume.dtype.name}; save labels as integers (bigreg convert --dtype uint8)")
    require_overlap(str(volume), grid, image)
    if volume.grid() == grid:
        warn_of_extent(volume, image.grid(), image.name)
    return volume, grid


def _step(
    parts: Sequence[Transform], labels: Sequence[int], where: Labels, frame: str, direction: str
) -> Split | Claimed:
    maps = tuple(part.map(direction) for part in parts)
    kind = Split if checked(direction).startswith(frame) else Claimed
    return kind(maps, tuple(labels), where)


def _summary(
    image: Volume, grid: Grid, frame: str, runs: Mapping[int, str], parts: Sequence[Transform]
) -> Iterator[Piece]:
    """What is to be known of each piece: voxels of it go there and back. Raises InputError where a label has none."""
    counts, probes, others = _counted(image, list(runs))
    if missing := [label for label in runs if counts[label] == 0]:
        there = sorted({label for label, count in counts.items() if count} | set(others))
        raise InputError(
            f"the label image holds no voxel of {', '.join(map(str, missing))}; its labels are "
            f"{', '.join(map(str, there)) or 'all 0'}"
        )
    for label, count in sorted(others.items()):
        logger.warning("label %d (%d voxels) has no run: its voxels belong to no piece", label, count)
    forth, back = DIRECTIONS if frame == FRAMES[0] else DIRECTIONS[::-1]
    where = Labels(image.read, grid)
    there_step, back_step = (_step(parts, list(runs), where, frame, direction) for direction in (forth, back))
    for number, (label, run) in enumerate(runs.items()):
        moved = there_step.maps[number].points(grid.index_to_world(probes[label]))
        known = np.isfinite(moved).all(1)
        end = there_step.maps[number].target.grid
        if end is not None:
            known[known] = end.contains(moved[known])
        chosen = back_step.chosen(moved[known])
        overlap, contested = (float(some.sum()) / len(moved) for some in (chosen >= 0, chosen == CONTESTED))
        overlap -= float((chosen == number).sum()) / len(moved)
        yield Piece(label, run, counts[label], 1.0 - float(known.mean()), overlap, contested)
        if contested > 0:
            logger.warning(
                "label %d: %.1f %% of it is mapped to where another piece is mapped to as well, far from the border of "
                "either; nothing of it has a way back. Are the runs in the order of their labels, and is each right?",
                label, 100 * contested,
            )  # fmt: skip


def _counted(image: Volume, labels: Sequence[int]) -> tuple[dict[int, int], dict[int, np.ndarray], dict[int, int]]:
    """Voxels of each label, indices (n, 3) of some of them spread over it, and voxels of all other labels but 0."""
    counts, step = dict.fromkeys(labels, 0), dict.fromkeys(labels, 1)
    probes: dict[int, list[np.ndarray]] = {label: [] for label in labels}
    others: dict[int, int] = {}
    for start, stop in boxes(image.shape, (BOX,) * 3):
        data = image.read(start, stop)
        for value, count in zip(*np.unique(data, return_counts=True), strict=True):
            label = int(value)
            if label not in counts:
                if label != 0:
                    others[label] = others.get(label, 0) + int(count)
                continue
            every = step[label]
            first = -counts[label] % every
            counts[label] += int(count)
            probes[label].append(np.argwhere(data == value)[first::every] + start)
            while sum(map(len, probes[label])) > 2 * PROBES:
                probes[label] = [np.concatenate(probes[label])[::2]]
                step[label] *= 2
    return counts, {k: np.concatenate(v) if v else np.empty((0, 3), int) for k, v in probes.items()}, others
