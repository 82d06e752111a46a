"""The inverse of a half-way map at the points of a block, from as little of the map as the block needs.

How far a map moves points anywhere says nothing about what one block needs: a bend of a third of the volume moves a
block as a whole. So a few points of the block are inverted first, through the coarser levels' maps one after the other
(each says where to look in the next), and the finest map is read around where they lie. What is found is certain: a map
that does not fold has one inverse, so a point that the box takes where it has to go, from within the box, is the one.
Where it is not found so, the box grows, at most to all that the largest displacement allows. A map that moves nothing
far is read around the block at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ... import storage
from ...geometry import Grid, Shape, triple
from ...transforms.field import sample
from ...transforms.positions import Positions

SPARSE = 5  # points along an axis of a block that say where to look
AROUND = 3  # samples of a map that are read around these, and
SPREAD = 0.25  # of the differences between their displacements
NEAR = 8.0  # samples: so far a map may move points anywhere for no box to be looked for
ROUGH = 0.25  # samples: so well they are inverted
GROWTH = 0.5  # of a box's extent that it grows by on every side


@dataclass(frozen=True)
class Half:
    """A half-way map: displacements (3, z, y, x), um, on a grid."""

    array: storage.Array
    grid: Grid

    def box(self, low: np.ndarray, high: np.ndarray) -> _Box:
        """The samples that points between two corners (um) are interpolated from."""
        last, step = np.asarray(self.grid.shape) - 1, np.asarray(self.grid.spacing)
        first = np.clip(np.floor((low - self.grid.origin) / step).astype(int) - 1, 0, last)
        end = np.clip(np.ceil((high - self.grid.origin) / step).astype(int) + 1, first, last) + 1
        return _Box(triple(first), triple(end))

    def inverse(self, y: Positions, box: _Box, tolerance: float) -> tuple[torch.Tensor, float]:
        """See `solve`, of the map in a box."""
        device = y.offset.device
        displacement = torch.as_tensor(self.array.read((0, *box.first), (3, *box.end)), device=device)
        return solve(y, displacement, self.grid.cropped(box.first, box.end), tolerance)

    def reached(self, y: Positions, reach: float) -> _Box:
        """All that the inverse of points can need of a map that moves no point further than `reach` (um)."""
        low, high = y.bounds()
        return self.box(low - reach, high + reach)

    def holds(self, box: _Box, points: Positions) -> bool:
        """Whether points lie within a box; beyond the map itself its border counts."""
        low, high = points.index(self.grid).bounds()
        first, end = np.asarray(box.first), np.asarray(box.end)
        return bool(((first == 0) | (low >= first)).all() and ((end == self.grid.shape) | (high <= end - 1)).all())


@dataclass(frozen=True)
class _Box:
    """Samples first .. end (z, y, x) of a map."""

    first: Shape
    end: Shape

    def grown(self) -> _Box:
        by = np.ceil(GROWTH * np.subtract(self.end, self.first)).astype(int)
        return _Box(triple(np.subtract(self.first, by)), triple(np.add(self.end, by)))

    def within(self, other: _Box) -> _Box:
        """What it shares with a box; a layer of this where that is nothing."""
        first = np.clip(self.first, other.first, np.subtract(other.end, 1))
        return _Box(triple(first), triple(np.clip(self.end, first + 1, other.end)))


def undone(halves: Sequence[Half], y: Positions, reach: float, tolerance: float) -> tuple[torch.Tensor, float]:
    """What the inverse of a half-way map adds to mid-space points y: (um, largest residual in samples).

    halves      the map, and before it what it was after each coarser level, coarsest first
    reach       the largest displacement of the map anywhere, um
    tolerance   of the inverse, samples
    """
    half = halves[-1]
    widest = half.reached(y, reach)
    near = reach <= NEAR * min(half.grid.spacing)
    box = widest if near else _where(halves, y, reach).within(widest)
    while True:
        inverse, left = half.inverse(y, box, tolerance)
        if box == widest or (left <= tolerance and half.holds(box, y.moved(inverse))):
            return inverse, left
        box = box.grown().within(widest) if left <= tolerance else widest


def _where(halves: Sequence[Half], y: Positions, reach: float) -> _Box:
    """Where in the finest map the inverse of a block is, going by a few of its points."""
    few = _few(y)
    found = torch.zeros_like(few.offset)
    for half in halves[: max(1, len(halves) - 1)]:
        box, widest = _around(half, few, found), half.reached(few, reach)
        while True:
            found, left = half.inverse(few, box, ROUGH)
            if box == widest or (left <= ROUGH and half.holds(box, few.moved(found))):
                break
            box = box.grown().within(widest)
        found = found.clamp(-reach, reach)
    return _around(halves[-1], few, found)


def _around(half: Half, points: Positions, moved: torch.Tensor) -> _Box:
    """The box of a map that points, moved by about `moved` (um), lie in with what is between them."""
    flat = moved.reshape(3, -1)
    spread = (flat.amax(1) - flat.amin(1)).double().cpu().numpy()
    margin = AROUND * np.asarray(half.grid.spacing) + SPREAD * spread
    low, high = points.moved(moved).bounds()
    return half.box(low - margin, high + margin)


def _few(y: Positions) -> Positions:
    """Some of the points, the outermost of a grid among them."""
    offset = y.offset
    for axis in range(1, offset.ndim):
        number = SPARSE if offset.ndim > 2 else SPARSE**3
        n = offset.shape[axis]
        chosen = np.unique(np.rint(np.linspace(0, n - 1, min(n, number))).astype(int))
        offset = offset.index_select(axis, torch.as_tensor(chosen, device=offset.device))
    return Positions(y.anchor, offset)


def solve(
    positions: Positions, displacement: torch.Tensor, region: Grid, tolerance: float, iterations: int = 40
) -> tuple[torch.Tensor, float]:
    """The displacement e with d(y + e(y)) = y at every position: (e (3, ...) um, largest residual in samples).

    displacement   (3, z, y, x) um of d on `region`. Fixed-point steps e <- -u(y + e) while they help; where u is no
                   contraction, Newton steps with the field's own Jacobian, halved until the residual falls.
    """
    index = positions.index(region)
    start = index.offset + torch.as_tensor(index.anchor, dtype=torch.float32, device=index.offset.device).reshape(
        3, *[1] * (index.offset.ndim - 1)
    )
    spacing = torch.as_tensor(region.spacing, dtype=torch.float32, device=start.device)
    step = spacing.reshape(3, *[1] * (start.ndim - 1))
    u = displacement / spacing.reshape(3, 1, 1, 1)
    e = -sample(u, start)
    worst = float("inf")
    for _ in range(iterations):
        new = -sample(u, start + e)
        change = float((new - e).abs().max())
        if change > 0.9 * worst:
            break
        e, worst = new, change
        if worst < tolerance:
            return e * step, worst
    residual = (e + sample(u, start + e)).reshape(3, -1)
    todo = torch.nonzero(residual.abs().amax(0) > tolerance)[:, 0]
    if len(todo):
        flat, begin = e.reshape(3, -1).clone(), start.reshape(3, -1)
        flat[:, todo] = _newton(u, begin[:, todo], flat[:, todo], tolerance)
        e = flat.reshape(e.shape)
        residual = (e + sample(u, start + e)).reshape(3, -1)
    return e * step, float(residual.abs().max())


def _newton(u: torch.Tensor, y: torch.Tensor, e: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Newton's method with step halving for e + u(y + e) = 0 at (3, N) points, everything in samples."""
    r = e + sample(u, y + e)
    for _ in range(40):
        size = r.abs().amax(0)
        if float(size.max()) < tolerance:
            break
        eps = 1e-2
        columns = []
        for axis in range(3):
            shift = torch.zeros(3, 1, dtype=u.dtype, device=u.device)
            shift[axis] = eps
            columns.append((sample(u, y + e + shift) - sample(u, y + e - shift)) / (2 * eps))
        jacobian = torch.stack(columns, dim=1).permute(2, 0, 1) + torch.eye(3, dtype=u.dtype, device=u.device)
        move = torch.linalg.lstsq(jacobian, -r.T[:, :, None]).solution[:, :, 0].T.clamp(-2.0, 2.0)
        move = torch.nan_to_num(move, nan=0.0)  # CUDA solves no singular system: that point stays, its residual tells
        scale = torch.ones_like(size)
        for _ in range(5):
            trial = e + move * scale
            new = trial + sample(u, y + trial)
            worse = new.abs().amax(0) >= size
            if not bool(worse.any()):
                break
            scale = torch.where(worse, scale * 0.5, scale)
        e, r = trial, new
    return e
