"""Blocks: how a domain of lattice cells is cut into units of work. Pure arithmetic, nothing is stored per block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .grid import Integers, Shape, triple


@dataclass(frozen=True)
class Block:
    """One unit of work, in cells (z, y, x): the core it owns and the halo box that is read around it."""

    index: Shape
    start: Shape
    stop: Shape
    halo_start: Shape
    halo_stop: Shape

    @property
    def shape(self) -> Shape:
        return triple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def halo_shape(self) -> Shape:
        return triple(b - a for a, b in zip(self.halo_start, self.halo_stop, strict=True))


@dataclass(frozen=True)
class BlockGrid:
    """A partition of `cells` (z, y, x) into blocks of `core` cells, each read with `halo` cells around it.

    Every core but the last along an axis is full, so that cores are the chunks of an array and no chunk has two
    writers. A block is computed from its index on demand: a plan of a million blocks costs nothing to hold.
    """

    cells: Shape
    core: Shape
    halo: Shape

    def __post_init__(self) -> None:
        for name, low in (("cells", 1), ("core", 1), ("halo", 0)):
            value = tuple(int(v) for v in getattr(self, name))
            if len(value) != 3 or min(value) < low:
                raise ValueError(f"block grid {name} {value} must be three numbers of at least {low}")
            object.__setattr__(self, name, value)

    @classmethod
    def balanced(cls, cells: Sequence[int], core: Sequence[int], halo: Sequence[int]) -> BlockGrid:
        """Blocks of at most `core` cells, as equal in size as whole cells allow (33 cells by 32 give 17 + 16)."""
        counts = [-(-n // c) for n, c in zip(cells, core, strict=True)]
        even = [-(-n // k) for n, k in zip(cells, counts, strict=True)]
        return cls(triple(cells), triple(even), triple(halo))

    @property
    def counts(self) -> Shape:
        """Number of blocks along each axis."""
        return triple(-(-n // c) for n, c in zip(self.cells, self.core, strict=True))

    def __len__(self) -> int:
        return int(np.prod(self.counts, dtype=np.int64))

    def __getitem__(self, index: int | Sequence[int]) -> Block:
        """The block at a (z, y, x) block index, or at a running number in C order."""
        if isinstance(index, (int, np.integer)):
            if not 0 <= index < len(self):
                raise IndexError(f"block {index} of {len(self)}")
            place = triple(int(i) for i in np.unravel_index(int(index), self.counts))
        else:
            place = triple(int(i) for i in index)
        if any(not 0 <= i < n for i, n in zip(place, self.counts, strict=True)):
            raise IndexError(f"block {place} of {self.counts}")
        start = triple(i * c for i, c in zip(place, self.core, strict=True))
        stop = triple(min(a + c, n) for a, c, n in zip(start, self.core, self.cells, strict=True))
        return Block(
            place,
            start,
            stop,
            triple(max(a - h, 0) for a, h in zip(start, self.halo, strict=True)),
            triple(min(b + h, n) for b, h, n in zip(stop, self.halo, self.cells, strict=True)),
        )

    def __iter__(self) -> Iterator[Block]:
        return (self[i] for i in range(len(self)))

    def touching(self, start: Integers, stop: Integers, *, halo: bool = False) -> tuple[Shape, Shape]:
        """The box (first, last + 1) of the blocks whose cores, or halo boxes, meet the cells `start` up to `stop`.

        Cells beyond the domain count as those at its border.
        """
        first, last = [], []
        for a, b, core, reach, n in zip(start, stop, self.core, self.halo, self.cells, strict=True):
            reach = reach if halo else 0
            # Block i reads [i core - reach, (i + 1) core + reach): solve for the i that meet [a, b).
            a, b = min(max(a, 0), n - 1), max(min(b, n), 1)
            count = -(-n // core)
            first.append(max(0, -(-(a - reach + 1) // core) - 1))
            last.append(min(count - 1, (b + reach - 1) // core) + 1)
        return triple(first), triple(last)

    def overlapping(self, start: Integers, stop: Integers) -> list[Shape]:
        """Indices, in C order, of the blocks whose *halo box* meets the cells from `start` up to `stop`."""
        first, last = self.touching(start, stop, halo=True)
        return [triple(index) for index in product(*map(range, first, last))]

    @property
    def redundancy(self) -> float:
        """Cells read with halos over cells in the domain (1 = no overlap)."""
        total = 1.0
        for axis in range(3):
            n, c, h, count = self.cells[axis], self.core[axis], self.halo[axis], self.counts[axis]
            i = np.arange(count)
            read = np.minimum(np.minimum((i + 1) * c, n) + h, n) - np.maximum(i * c - h, 0)
            total *= float(read.sum()) / n
        return total
