"""Maps made of steps: affines and displacement fields, one after the other, as one map that is sampled once.

    (a then b)(x) = b(a(x))                (a then b) then c = a then (b then c)
    warp(image, a then b) = warp(warp(image, b), a), but interpolated once

A step knows where it is defined. A point outside is carried on as the step's border would carry it, so that
neighbours stay neighbours, and is marked unknown: `Map.points` makes it NaN, a warped image 0.

A choice is a step that is another map in each piece of what it starts in (see `pieces`). A map with one is several
maps, each of which takes its own points.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from ..geometry import Grid, Shape
from .affine import apply_affine
from .positions import Positions, Read

BOX = 128  # samples along an axis of the part of a field that is read for points at once


class Step(Protocol):
    """One step of a map, in um (z, y, x)."""

    def follow(self, positions: Positions) -> tuple[Positions, torch.Tensor | None]:
        """Where positions go, and which of them the step is defined at (None: all)."""

    def points(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The same for (N, 3) finite points anywhere."""


@dataclass(frozen=True, eq=False)
class Affine:
    """x -> matrix x, 4 x 4."""

    matrix: np.ndarray

    def follow(self, positions: Positions) -> tuple[Positions, None]:
        return positions.through(self.matrix), None

    def points(self, points: np.ndarray) -> tuple[np.ndarray, None]:
        return apply_affine(self.matrix, points), None


@dataclass(frozen=True, eq=False)
class Field:
    """x -> x + u(x), u sampled on a grid and linear between its samples.

    read   (start, stop) -> (3, z, y, x) um
    frame  where it is defined; by default the grid of its samples
    """

    read: Read
    grid: Grid
    frame: Grid | None = None

    @property
    def domain(self) -> Grid:
        return self.frame or self.grid

    def follow(self, positions: Positions) -> tuple[Positions, torch.Tensor]:
        return positions.moved(positions.sample(self.read, self.grid)), positions.inside(self.domain)

    def points(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = np.empty_like(points)
        # Box by box of the field, so that memory does not grow with the volume.
        box = np.floor(self.grid.world_to_index(points) / BOX)
        box = np.clip(box, -1, np.asarray(self.grid.shape) // BOX + 1).astype(np.int64) + 1
        counts = np.asarray(self.grid.shape) // BOX + 3
        key = (box[:, 0] * counts[1] + box[:, 1]) * counts[2] + box[:, 2]
        order = np.argsort(key, kind="stable")
        edges = np.flatnonzero(np.diff(key[order])) + 1
        for part in np.split(order, edges) if len(order) else ():
            here = Positions.of_points(points[part])
            moved = here.sample(self.read, self.grid)
            out[part] = points[part] + moved.T.double().numpy()
        return out, self.domain.contains(points)

    def after(self, matrix: np.ndarray) -> Field:
        """The field g with (this after `matrix`) = (`matrix` after g); the grid is that seen before the matrix."""
        back = np.linalg.inv(matrix)
        linear = back[:3, :3].astype(np.float32)
        inner = self.read

        def read(start: Shape, stop: Shape) -> np.ndarray:
            values = inner(start, stop)
            return (linear @ values.reshape(3, -1)).reshape(values.shape)

        frame = self.frame.transformed(back) if self.frame is not None else None
        return Field(read, self.grid.transformed(back), frame)


class Choice(ABC):
    """A step that is one of several maps, point by point."""

    maps: tuple[Map, ...]

    @abstractmethod
    def chosen(self, points: np.ndarray) -> np.ndarray:
        """(N,) the number of the map that each of the points (N, 3), um, takes; negative where it is none of them."""


@dataclass(frozen=True)
class Frame:
    """What is known of one end of a map: the image's grid, and the sides at which its world's axes start ("ipl")."""

    grid: Grid | None = None
    orientation: str | None = None


@dataclass(frozen=True, eq=False)
class Map:
    """Steps, first to last, between two frames. An empty one is the identity."""

    steps: tuple[Step | Choice, ...] = ()
    source: Frame = field(default_factory=Frame)
    target: Frame = field(default_factory=Frame)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", merged(self.steps))

    def then(self, other: Map) -> Map:
        """This map, and `other` after it."""
        return Map((*self.steps, *other.steps), self.source, other.target)

    @property
    def fields(self) -> tuple[Field, ...]:
        return tuple(step for step in self.steps if isinstance(step, Field))

    @property
    def matrix(self) -> np.ndarray | None:
        """The 4 x 4 affine that this map is; None where it has a field or a choice."""
        if self.fields or self.choice is not None:
            return None
        if not self.steps:
            return np.eye(4)
        (step,) = self.steps
        assert isinstance(step, Affine), "affines side by side are one, and there is no field"
        return step.matrix

    @property
    def affine(self) -> np.ndarray:
        """The affine part: the product of its affine steps, 4 x 4; of a choice, that of its first map."""
        out = np.eye(4)
        for step in self.steps:
            if isinstance(step, Affine):
                out = step.matrix @ out
            elif isinstance(step, Choice):
                out = step.maps[0].affine @ out
        return out

    @property
    def choice(self) -> int | None:
        """The place of the first choice among the steps."""
        return next((place for place, step in enumerate(self.steps) if isinstance(step, Choice)), None)

    def pieces(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, Map]]:
        """The maps that a choice leaves, and which of the finite points (N, 3) take each: their rows.

        Without a choice it is this map, and all rows. Points that no map takes are in none of them.
        """
        place = self.choice
        if place is None:
            yield np.arange(len(points)), self
            return
        step = self.steps[place]
        assert isinstance(step, Choice)
        before, rest = Map(self.steps[:place], self.source), self.steps[place + 1 :]
        here = before.points(points)
        chosen = step.chosen(here)
        for number, map_ in enumerate(step.maps):
            rows = np.flatnonzero(chosen == number)
            if len(rows):
                through = Map((*before.steps, *map_.steps, *rest), self.source, self.target)
                for some, each in through.pieces(points[rows]):
                    yield rows[some], each

    def parted(self, positions: Positions) -> Iterator[tuple[np.ndarray | None, Map, Positions]]:
        """The same of positions: which of them, as rows of their `points` (None: all as they are), and these."""
        if self.choice is None:
            yield None, self, positions
            return
        for rows, through in self.pieces(positions.points()):
            yield rows, through, positions.taken(rows)

    def follow(self, positions: Positions) -> tuple[Positions, torch.Tensor | None]:
        """Where positions go, and which of them the map is defined at (None: all).

        For a map without a choice; of another, for each of `pieces`.
        """
        known = None
        for step in self.steps:
            assert not isinstance(step, Choice), "each piece is followed by itself"
            positions, here = step.follow(positions)
            known = here if known is None else (known if here is None else known & here)
        return positions, known

    def points(self, points: np.ndarray, *, beyond: bool = False) -> np.ndarray:
        """(N, 3) points (um, z y x) to (N, 3); NaN where the map is not defined.

        beyond   carry points on beyond where it is defined, as its borders would; only what is not finite is NaN then
        """
        points = np.asarray(points, dtype=float)
        out = np.full(points.shape, np.nan)
        use = np.flatnonzero(np.isfinite(points).all(1))
        moved = points[use]
        if self.choice is not None:
            for rows, through in self.pieces(moved):
                out[use[rows]] = through.points(moved[rows], beyond=beyond)
            return out
        own = self.steps[0] if self.steps and isinstance(self.steps[0], Field) else None
        # What the first field looks after is not asked twice.
        if self.source.grid is not None and not beyond and (own is None or own.domain != self.source.grid):
            inside = self.source.grid.contains(moved)
            use, moved = use[inside], moved[inside]
        for step in self.steps:
            assert not isinstance(step, Choice)
            moved, known = step.points(moved)
            if known is not None and not beyond and not known.all():
                use, moved = use[known], moved[known]
        out[use] = moved
        return out

    def determinant(self, points: np.ndarray) -> np.ndarray:
        """(N,) determinant of the map's derivative at points: by how much volume grows there; negative where the affine
        mirrors. NaN where undefined.

        Central differences over half a sample of the finest field to either side.
        """
        if self.choice is not None:
            out = np.full(len(points), np.nan)
            use = np.flatnonzero(np.isfinite(points).all(1))
            for rows, through in self.pieces(points[use]):
                out[use[rows]] = through.determinant(points[use[rows]])
            return out
        known = np.isfinite(self.points(points)).all(1)
        steps = [np.asarray(f.grid.spacing).min() for f in self.fields]
        reach = 0.5 * min(steps, default=1.0)
        columns = []
        for axis in range(3):
            shift = np.zeros(3)
            shift[axis] = reach
            columns.append(self.points(points + shift, beyond=True) - self.points(points - shift, beyond=True))
        determinant = np.linalg.det(np.nan_to_num(np.stack(columns, axis=2) / (2 * reach)))
        return np.where(known, determinant, np.nan)


def merged(steps: Sequence[Step | Choice]) -> tuple[Step | Choice, ...]:
    """The same map with neighbouring affines made one, and no identity among them."""
    out: list[Step | Choice] = []
    for step in steps:
        if isinstance(step, Affine) and out and isinstance(out[-1], Affine):
            out[-1] = Affine(step.matrix @ out[-1].matrix)
        else:
            out.append(step)
    return tuple(s for s in out if not (isinstance(s, Affine) and np.array_equal(s.matrix, np.eye(4))))


def stored_field(read: Callable[[int, Shape, Shape], np.ndarray], grid: Grid, frame: Grid | None = None) -> Field:
    """A field of which `read(level, start, stop)` gives the samples, as an ngff.FieldReader does."""
    return Field(lambda start, stop: read(0, start, stop), grid, frame)
