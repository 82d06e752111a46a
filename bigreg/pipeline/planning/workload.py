"""What the blocks of a stage read, compute and write: quantities that are products of a length along each axis.

So sums over a million blocks are three short sums, and nothing is held for a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...geometry import BlockGrid, Grid, Shape, triple
from ..schedule.flow import Need

Span = tuple[np.ndarray, np.ndarray]
"""First and last + 1 of every block along one axis."""


@dataclass(frozen=True, eq=False)
class Amount:
    """A quantity of every block of a stage: `each` times the block's length along z, y and x."""

    each: float
    lengths: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, each: float, spans: Sequence[Span]) -> Amount:
        return cls(each, triple(np.asarray(b - a, dtype=float) for a, b in spans))

    @classmethod
    def same(cls, each: float, counts: Shape) -> Amount:
        """The same of every block."""
        return cls(each, triple(np.ones(n) for n in counts))

    @property
    def total(self) -> float:
        return self.each * math.prod(float(v.sum()) for v in self.lengths)

    @property
    def largest(self) -> float:
        return self.each * math.prod(float(v.max()) for v in self.lengths)

    def of_block(self, index: Shape) -> float:
        return self.each * math.prod(float(v[i]) for v, i in zip(self.lengths, index, strict=True))

    def of_blocks(self) -> np.ndarray:
        """(blocks,) in C order."""
        z, y, x = self.lengths
        return (self.each * z[:, None, None] * y[:, None] * x).ravel()


def box_spans(need: Need, counts: Shape) -> list[Span]:
    """The boxes of a Need (or of anything with a `box`) of all blocks, axis by axis."""
    spans = []
    for axis, count in enumerate(counts):
        found = [need.box(triple(i if a == axis else 0 for a in range(3))) for i in range(count)]
        first, last = (np.array([box[end][axis] for box in found], dtype=np.int64) for end in (0, 1))
        spans.append((first, last))
    return spans


@dataclass(frozen=True, eq=False)
class Work:
    """One stage of a run, foreseen.

    name     place in the run store of its status and metrics
    phase    stages of one phase run into one another; a phase begins when the one before is over
    does     (what, Amount): `what` is a rate of bigreg.pipeline.planning.rates.Rates, the amount in its units
    reads, writes   bytes before compression, whole chunks; `source`: the part of `reads` that is of the given images
    metrics  how many figures are recorded a block
    needs    blocks of stages of the same phase that a block waits for
    looks    that an engine may take at a patch
    memory   bytes that one block needs at its worst moment; card: of a GPU's memory, where it is computed on one
    """

    name: str
    title: str
    counts: Shape
    phase: int
    does: tuple[tuple[str, Amount], ...] = ()
    reads: tuple[Amount, ...] = ()
    writes: tuple[Amount, ...] = ()
    source: tuple[Amount, ...] = ()
    metrics: int = 0
    needs: tuple[Need, ...] = ()
    looks: int = 1
    memory: float = 0.0
    card: float = 0.0

    @property
    def blocks(self) -> int:
        return math.prod(self.counts)

    @property
    def bytes_read(self) -> int:
        return int(sum(a.total for a in (*self.reads, *self.source)))

    @property
    def bytes_written(self) -> int:
        return int(sum(a.total for a in self.writes))


@dataclass(frozen=True)
class Stored:
    """An array of the run store, or `arrays` alike: `unit` is a file (a shard, or a chunk where there are none)."""

    place: str
    shape: tuple[int, ...]
    unit: tuple[int, ...]
    itemsize: int
    arrays: int = 1

    @property
    def bytes(self) -> int:
        """Before compression."""
        return self.arrays * math.prod(self.shape) * self.itemsize

    @property
    def units(self) -> int:
        return self.arrays * math.prod(-(-n // u) for n, u in zip(self.shape, self.unit, strict=True))

    @property
    def files(self) -> int:
        """Units and metadata. A unit that holds nothing but the fill value is not stored."""
        return self.units + self.arrays


@dataclass(frozen=True, eq=False)
class Workload:
    """All stages of a run in order, and all that it stores."""

    stages: tuple[Work, ...]
    arrays: tuple[Stored, ...]
    loose_files: int = 0
    by_name: dict[str, Work] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {w.name: w for w in self.stages})

    @property
    def files(self) -> int:
        """Files of the finished run: arrays, the groups they lie in, and the report."""
        groups = {"", "affine"}
        for array in self.arrays:
            parts = array.place.split("/")
            groups |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        return sum(a.files for a in self.arrays) + len(groups) + self.loose_files

    @property
    def bytes(self) -> int:
        return sum(a.bytes for a in self.arrays)


# ---------------------------------------------------------------------------------------------------- spans of blocks


def spans(blocks: BlockGrid, *, halo: bool = False, scale: int | Sequence[int] = 1) -> list[Span]:
    """Cores (or halo boxes) of the blocks, in cells times `scale`."""
    scale = (scale,) * 3 if isinstance(scale, int) else scale
    found = []
    for n, core, reach, times in zip(blocks.cells, blocks.core, blocks.halo, scale, strict=True):
        start = np.arange(-(-n // core)) * core
        stop = np.minimum(start + core, n)
        if halo:
            start, stop = np.maximum(start - reach, 0), np.minimum(stop + reach, n)
        found.append((start * times, stop * times))
    return found


def grown(found: Sequence[Span], low: int, high: int, shape: Shape) -> list[Span]:
    """Spans that reach further, within an array."""
    return [(np.maximum(a - low, 0), np.minimum(b + high, n)) for (a, b), n in zip(found, shape, strict=True)]


def whole_chunks(found: Sequence[Span], chunks: Sequence[int], shape: Sequence[int]) -> list[Span]:
    """Spans as they are decoded: from chunk border to chunk border."""
    return [
        (a // c * c, np.minimum(-(-b // c) * c, n)) for (a, b), c, n in zip(found, chunks, shape, strict=True)
    ]  # fmt: skip


def seen(
    found: Sequence[Span], source: Grid, matrix: np.ndarray, target: Grid, chunks: Shape | None = None
) -> list[Span]:
    """What is read of the samples of `target` where boxes of samples of `source` are taken there by a world affine.

    Each span stands at the axis of `source` that it comes from. With `chunks` whole ones. Empty beyond the target.
    The part of a rotation that is not a change of axes is left out: boxes turned by a few degrees read little more.
    """
    through = target.inverse @ matrix @ source.affine
    centre = (np.asarray(source.shape) - 1) / 2
    result = []
    for axis, (start, stop) in enumerate(found):
        other = int(np.abs(through[:3, axis] * np.asarray(target.spacing)).argmax())
        slope = through[other, axis]
        offset = through[other, :3] @ centre - slope * centre[axis] + through[other, 3]
        ends = np.sort(np.stack([slope * start + offset, slope * (stop - 1) + offset]), axis=0)
        n = target.shape[other]
        inside = (ends[1] > -1) & (ends[0] < n)
        low = np.clip(np.floor(ends[0] + 1e-6), 0, n - 1).astype(np.int64)
        high = np.clip(np.ceil(ends[1] - 1e-6), low, n - 1).astype(np.int64) + 1
        if chunks is not None:
            c = min(chunks[other], n)
            low, high = low // c * c, np.minimum(-(-high // c) * c, n)
        result.append((low, np.where(inside, high, low)))
    return result


def with_border(found: Sequence[Span]) -> list[Span]:
    """Spans of a lattice's cells as spans of its control points."""
    return [(a, b + 4) for a, b in found]


def overlaps(own: Span, blocks: BlockGrid, axis: int, box: Span) -> np.ndarray:
    """Control points of a block times the patches that hold each, along one axis."""
    n, core, halo = blocks.cells[axis], blocks.core[axis], blocks.halo[axis]
    total = np.zeros(len(own[0]))
    for step in range(int((box[1] - box[0]).max())):
        other = box[0] + step
        first = np.maximum(other * core - halo, 0)
        last = np.minimum(np.minimum(other * core + core, n) + halo, n) + 4
        overlap = np.minimum(own[1], last) - np.maximum(own[0], first)
        total += np.where(other < box[1], np.maximum(overlap, 0), 0)
    return total


def read_in_pieces(
    each: float, box: Sequence[Span], grid: Grid, matrix: np.ndarray, target: Grid, chunks: Shape, piece: int
) -> Amount:
    """Bytes that are read of `target` for boxes of `grid` which are sampled in pieces of at most `piece` voxels."""
    pieces, owners = zip(*(in_pieces(span, piece) for span in box), strict=True)
    found = seen(pieces, grid, matrix, target, chunks)
    lengths = (np.add.reduceat(b - a, own).astype(float) for (a, b), own in zip(found, owners, strict=True))
    return Amount(each, triple(lengths))


def in_pieces(span: Span, piece: int) -> tuple[Span, np.ndarray]:
    """Pieces of at most `piece` voxels of every block along one axis, and where the pieces of each block begin."""
    counts = -(-(span[1] - span[0]) // piece)
    owners = np.concatenate([[0], np.cumsum(counts)[:-1]])
    number = np.arange(counts.sum()) - np.repeat(owners, counts)
    start = np.repeat(span[0], counts) + number * piece
    return (start, np.minimum(start + piece, np.repeat(span[1], counts))), owners
