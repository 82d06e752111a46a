"""How large each region is and how many cells lie in it, left and right, summed up the tree of structures."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..points.carrier import Column
from ..transforms.maps import Frame, Map
from ..volumes import Volume
from ..volumes.convert import boxes
from ..volumes.lookup import lookup
from .intervals import SampledMove, interval
from .source import LEFT, RIGHT, Atlas
from .structures import Structure, Structures

BOX = 128  # voxels along an axis of what is counted at once
Progress = Callable[[int, int, str], None]
Row = dict[str, Any]


class Counts:
    """How often each label was met, left and right."""

    def __init__(self) -> None:
        self.of: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(2, np.int64))

    def add(self, labels: np.ndarray, sides: np.ndarray) -> None:
        """Count labels, each with LEFT or RIGHT; label 0 is no region."""
        for place, side in enumerate((LEFT, RIGHT)):
            for label, count in zip(*np.unique(labels[sides == side], return_counts=True), strict=True):
                if label:
                    self.of[int(label)][place] += int(count)


def count_voxels(
    annotation: Volume,
    through: Map,
    atlas: Atlas,
    progress: Progress | None = None,
    unmatched: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[Counts, Counts | None]:
    """Voxels of each label of an annotation in a brain, by the side of the atlas to which `through` takes them.

    unmatched   says of places (N, 3) um in the atlas which are 1, without a counterpart; those are counted apart too
    """
    counts, missing = Counts(), None if unmatched is None else Counts()
    grid = annotation.grid()
    tiles = list(boxes(grid.shape, (BOX,) * 3))
    for number, (start, stop) in enumerate(tiles):
        labels = annotation.read(start, stop)
        some = np.argwhere(labels)
        if len(some):
            there = through.points(grid.index_to_world(some + start))
            here, sides = labels[tuple(some.T)], atlas.sides_of(there)
            counts.add(here, sides)
            if unmatched is not None and missing is not None:
                gone = unmatched(there) == 1
                missing.add(here[gone], sides[gone])
        if progress is not None:
            progress(number + 1, len(tiles), "count")
    return counts, missing


@dataclass(eq=False)
class Watched:
    """A map that tells `saw` where it took points, (N, 3) um: a table of any length is mapped and counted at once."""

    through: Map
    saw: Callable[[np.ndarray], None]

    @property
    def source(self) -> Frame:
        return self.through.source

    @property
    def target(self) -> Frame:
        return self.through.target

    @property
    def affine(self) -> np.ndarray:
        return self.through.affine

    def determinant(self, points: np.ndarray) -> np.ndarray:
        return self.through.determinant(points)

    def points(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) um to (N, 3), as Map.points has it."""
        mapped = self.through.points(points)
        self.saw(mapped)
        return mapped


def region_columns(atlas: Atlas) -> dict[str, Column]:
    """Columns for a table of points that go into an atlas: the id of the region and the side (1 left, 2 right) that
    each ends in; 0 where it ends in none.
    """
    return {
        "atlas_region": lambda _, mapped, there: lookup(atlas.annotation, mapped).astype(float),
        "atlas_side": lambda _, mapped, there: np.where(there, atlas.sides_of(mapped), 0).astype(float),
    }


class CellCounter:
    """Counts points in an atlas by region and side.

    moves     displacements of the atlas that the map may be off by as well; none: nothing is known of that
    sampled   the same counts through each of them
    """

    def __init__(self, atlas: Atlas, moves: Sequence[SampledMove] = ()) -> None:
        self.atlas, self.counts, self.moves = atlas, Counts(), moves
        self.sampled = [Counts() for _ in moves]
        self.cells = self.outside = self.unlabelled = 0

    def add(self, places: np.ndarray) -> None:
        """Count (N, 3) um in the atlas' world, NaN outside."""
        labels = lookup(self.atlas.annotation, places)
        self.counts.add(labels, self.atlas.sides_of(places))
        for move, counts in zip(self.moves, self.sampled, strict=True):
            there = move(places)
            counts.add(lookup(self.atlas.annotation, there), self.atlas.sides_of(there))
        known = np.isfinite(places).all(1)
        self.cells += len(places)
        self.outside += int((~known).sum())
        self.unlabelled += int((known & (labels == 0)).sum())


def _listed(structures: Structures, *counts: Mapping[int, np.ndarray]) -> list[tuple[Structure, bool]]:
    """All structures, then labels that are none of them; and which are known."""
    unknown = sorted({label for each in counts for label in each if label not in structures})
    named = [(Structure(label, str(label), "not among the structures", None, 0), False) for label in unknown]
    return [*((s, True) for s in structures), *named]


def _sums(structures: Structures, counts: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    zero = {s.id: np.zeros(2, np.int64) for s in structures}
    return {**counts, **structures.summed({**zero, **{k: v for k, v in counts.items() if k in structures}})}


def region_rows(structures: Structures, voxels: Counts, voxel_um3: float, missing: Counts | None = None) -> list[Row]:
    """The table of volumes: a row for each structure in the order of the tree, every one with all below it.

    A volume is the number of the annotation's voxels in the sample times the volume of a voxel there, so of the tissue
    as it was imaged, shrunk or grown as it may be. `own_voxels` counts those that bear the structure's own label.
    `missing_mm3` is how much of it shows in atlas or sample what the other does not, empty where the run does not look.
    """
    total = _sums(structures, voxels.of)
    gone = None if missing is None else _sums(structures, missing.of)
    rows: list[Row] = []
    for s, _ in _listed(structures, voxels.of):
        left, right = (int(n) for n in total[s.id])
        rows.append(
            _named(s)
            | {
                "volume_left_mm3": left * voxel_um3 / 1e9,
                "volume_right_mm3": right * voxel_um3 / 1e9,
                "volume_mm3": (left + right) * voxel_um3 / 1e9,
                "voxels": left + right,
                "own_voxels": int(voxels.of[s.id].sum()) if s.id in voxels.of else 0,
                "missing_mm3": "" if gone is None else float(np.sum(gone.get(s.id, 0))) * voxel_um3 / 1e9,
            }
        )
    return rows


def cell_rows(structures: Structures, cells: CellCounter, voxels: Counts, voxel_um3: float) -> list[Row]:
    """The table of cells, likewise; density is cells a mm3 of the region in the sample, empty where it has none.

    `cells_p5` and `cells_p95` are between what the count would be in 90 % of maps as uncertain as the found one (see
    `intervals`), empty where the run does not say how uncertain its map is.
    """
    number, space = _sums(structures, cells.counts.of), _sums(structures, voxels.of)
    sampled = [_sums(structures, counts.of) for counts in cells.sampled]
    rows: list[Row] = []
    for s, _ in _listed(structures, cells.counts.of, voxels.of, *(counts.of for counts in cells.sampled)):
        count = number.get(s.id, np.zeros(2, np.int64))
        volume = space.get(s.id, np.zeros(2, np.int64)) * voxel_um3 / 1e9
        row = _named(s) | {"cells_left": int(count[0]), "cells_right": int(count[1]), "cells": int(count.sum())}
        others = [int(np.sum(sums.get(s.id, 0))) for sums in sampled]
        row["cells_p5"], row["cells_p95"] = interval(int(count.sum()), others) if others else ("", "")
        row["own_cells"] = int(cells.counts.of[s.id].sum()) if s.id in cells.counts.of else 0
        for name, n, v in (
            ("_left", count[0], volume[0]),
            ("_right", count[1], volume[1]),
            ("", sum(count), volume.sum()),
        ):
            row[f"density{name}_per_mm3"] = float(n / v) if v > 0 else ""
        rows.append(row)
    return rows


def _named(s: Structure) -> Row:
    parent = "" if s.parent is None else s.parent
    return {"id": s.id, "acronym": s.acronym, "name": s.name, "parent": parent, "depth": s.depth}


def to_csv(rows: Sequence[Row]) -> bytes:
    """A table as text; numbers to six digits."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n")
    write.writerow(rows[0].keys())
    write.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row.values()] for row in rows)
    return text.getvalue().encode("utf-8")


def from_csv(text: str) -> list[Row]:
    """The table again: whole numbers, numbers, or text."""

    def value(name: str, item: str) -> int | float | str:
        if name in ("acronym", "name") or item == "":
            return item
        return float(item) if name.startswith(("volume", "density", "missing")) else int(item)

    return [{k: value(k, v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(text))]
