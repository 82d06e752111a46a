"""What takes the numbers of a file through a map and gives numbers of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..errors import ConfigError, InputError
from ..geometry import Grid
from ..transforms.affine import apply_affine
from ..transforms.maps import Frame

UNITS = ("um", "mm", "voxel")
DECIMALS = {"um": 4, "mm": 7, "voxel": 4}


@dataclass(frozen=True)
class Counts:
    """How many points there were, and how many of them lay outside of either frame.

    outside   where the map is not defined: outside of the frame they are given in, or at no place (an empty cell)
    beyond    of the others, those that were mapped to outside of the other frame; None where its extent is not known
    """

    points: int = 0
    outside: int = 0
    beyond: int | None = None

    def __add__(self, other: Counts) -> Counts:
        known = [c.beyond for c in (self, other) if c.beyond is not None]
        return Counts(self.points + other.points, self.outside + other.outside, sum(known) if known else None)


Column = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(N,) values of a column that is added to a table: of the points given and mapped, (N, 3) um, and which of them lie
in both frames."""


def inside_column(given: np.ndarray, mapped: np.ndarray, there: np.ndarray) -> np.ndarray:
    """1 for points that lie in both frames, else 0."""
    return there.astype(float)


@dataclass(frozen=True, eq=False)
class Carried:
    """Points in the numbers of the file that is written, (N, 3); how many; and the added columns, (N, columns)."""

    points: np.ndarray
    counts: Counts
    added: np.ndarray


class PointMap(Protocol):
    """What points are taken through: a Map, or what does the same for points."""

    @property
    def source(self) -> Frame: ...

    @property
    def target(self) -> Frame: ...

    @property
    def affine(self) -> np.ndarray: ...

    def points(self, points: np.ndarray) -> np.ndarray: ...

    def determinant(self, points: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Carrier:
    """A map between the numbers of two files, z y x.

    into      4 x 4: a file's numbers to the world (um) that the map starts in; out: the reverse where it ends
    decimals  with which text files are written
    frame     of the other image, where it is known
    added     columns that a table gets
    """

    map: PointMap
    into: np.ndarray = field(default_factory=lambda: np.eye(4))
    out: np.ndarray = field(default_factory=lambda: np.eye(4))
    decimals: int = 4
    frame: Grid | None = None
    added: Mapping[str, Column] = field(default_factory=dict)

    def __call__(self, points: np.ndarray) -> Carried:
        """Carry points (N, 3), z y x; NaN where the map is not defined."""
        given = apply_affine(self.into, points)
        mapped = self.map.points(given)
        known = np.isfinite(mapped).all(1)
        there, beyond = known.copy(), None
        if self.frame is not None:
            there[known] = self.frame.contains(mapped[known])
            beyond = int((known & ~there).sum())
        columns = [column(given, mapped, there) for column in self.added.values()]
        added = np.stack(columns, axis=1) if columns else np.empty((len(points), 0))
        return Carried(apply_affine(self.out, mapped), Counts(len(mapped), int((~known).sum()), beyond), added)

    def volume_ratio(self, points: np.ndarray) -> np.ndarray:
        """(N,) by how much a small volume grows in the files' units; negative where the map mirrors."""
        scale = np.linalg.det(self.out[:3, :3]) * np.linalg.det(self.into[:3, :3])
        return self.map.determinant(apply_affine(self.into, points)) * scale

    @property
    def mirrors(self) -> bool:
        """Whether right hands become left ones: by the affine part, as fields do not fold."""
        return bool(np.linalg.det((self.out @ self.map.affine @ self.into)[:3, :3]) < 0)


def units_matrix(units: str, grid: Grid | None, what: str) -> np.ndarray:
    """4 x 4 from numbers in some units to the world.

    Raises ConfigError for unknown units, InputError for voxels of no known grid.
    """
    if units not in UNITS:
        raise ConfigError(f"units {units!r} are unknown; use one of {', '.join(UNITS)}")
    if units != "voxel":
        return np.diag([1000.0] * 3 + [1.0]) if units == "mm" else np.eye(4)
    if grid is None:
        raise InputError(f"voxels of which image? the grid of the {what} points is unknown; give the image")
    return grid.affine
