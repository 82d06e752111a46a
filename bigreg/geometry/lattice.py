"""Control-point lattices of cubic B-spline velocities: one global origin for the whole domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .grid import Grid, Integers, Shape, Vector, triple


@dataclass(frozen=True)
class Lattice:
    """A lattice over a box of `cells` cells (z, y, x) of `spacing` um whose lower corner is `origin` (world um).

    Cells are treated as large voxels: a control point stands at the centre of each cell, and a cell's samples (voxels
    of an image, or of a displacement field) tile it, so sample j of `samples` a cell stands at
    origin + (j + 1/2) * spacing / samples and the lattice is the block-mean grid of its samples. A cubic spline needs
    two control points beyond the cells on either side: coefficient arrays have cells + 4 entries an axis, and entry i
    stands at origin + (i - 2 + 1/2) * spacing.
    """

    cells: Shape
    spacing: Vector
    origin: Vector
    samples: Shape

    def __post_init__(self) -> None:
        for name, kind in (("cells", int), ("spacing", float), ("origin", float), ("samples", int)):
            value = tuple(kind(v) for v in getattr(self, name))
            if len(value) != 3 or (name != "origin" and min(value) <= 0):
                raise ValueError(f"lattice {name} {value} must be three positive numbers")
            object.__setattr__(self, name, value)

    @property
    def points(self) -> Shape:
        """Number of control points along each axis."""
        return triple(n + 4 for n in self.cells)

    @property
    def grid(self) -> Grid:
        """Where the field samples of this lattice lie."""
        step = np.divide(self.spacing, self.samples)
        return Grid.from_spacing(np.multiply(self.cells, self.samples), step, self.origin + step / 2)

    def part(self, start: Integers, stop: Integers, samples: Shape | None = None) -> Lattice:
        """The lattice of the cells from `start` up to `stop`; its control points are start .. stop + 3 of this one."""
        origin = np.asarray(self.origin) + np.multiply(start, self.spacing)
        return Lattice(tuple(np.subtract(stop, start)), self.spacing, tuple(origin), samples or self.samples)

    def to_json(self) -> dict[str, Any]:
        return {name: list(getattr(self, name)) for name in ("cells", "spacing", "origin", "samples")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Lattice:
        return cls(**{name: tuple(value) for name, value in data.items()})
