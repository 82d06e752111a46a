"""Which of several maps a point takes: that of the label where it lies, or that which brings it to its own label.

Tissue that is torn apart has no smooth map as a whole; each of its pieces has one. A label image in one frame says
which piece is where. From that frame a point follows the map of the label that it lies in. On the way back a point
belongs to the piece whose map brings it into that piece's label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..geometry import Grid, Shape, triple
from .maps import Choice, Map
from .positions import Read

NONE, CONTESTED = -1, -2
"""In place of a piece's number: the point lies in no piece; two maps claim it, and each is sure."""
DEEP = 16
"""Voxels of the label image (of its finest axis) from a piece's border on which a claim is sure."""
BOX = 128  # voxels along an axis of the part of the label image that is read at once


@dataclass(frozen=True, eq=False)
class Labels:
    """A label image: `read(start, stop)` gives integers (z, y, x) on `grid`. Beyond it is label 0."""

    read: Read
    grid: Grid

    def at(self, points: np.ndarray) -> np.ndarray:
        """(N,) int64 labels of the voxels that points (N, 3), um, lie in; 0 outside and where a point is NaN."""
        out = np.zeros(len(points), np.int64)
        for rows, start, stop, place in self._boxes(points, 0):
            index = np.clip(np.rint(place).astype(np.int64), 0, np.subtract(self.grid.shape, 1)) - start
            out[rows] = self.read(start, stop)[tuple(index.T)]
        return out

    def depth(self, points: np.ndarray, label: int) -> np.ndarray:
        """(N,) how far points (N, 3), um, that lie in a label are from its border, um; at most `deepest`.

        The faces of the image are no border.
        """
        out = np.zeros(len(points))
        halo = np.ceil(self.deepest / np.asarray(self.grid.spacing)).astype(int) + 2
        for rows, start, stop, place in self._boxes(points, halo):
            own = self.read(start, stop) == label
            if own.all():
                out[rows] = self.deepest
                continue
            # Cut first: farther ones would depend on how much is read.
            far = np.minimum(ndimage.distance_transform_edt(own, sampling=self.grid.spacing), self.deepest)
            out[rows] = ndimage.map_coordinates(far, (place - start).T, order=1, mode="nearest")
        return out

    def share(self, points: np.ndarray, label: int) -> np.ndarray:
        """(N,) how much of what is around points (N, 3), um, has a label, 0 .. 1: linear between the voxels."""
        out = np.zeros(len(points))
        for rows, start, stop, place in self._boxes(points, 1):
            own = self.read(start, stop) == label
            if own.any():
                out[rows] = ndimage.map_coordinates(own.astype(np.float32), (place - start).T, order=1, mode="nearest")
        return out

    @property
    def deepest(self) -> float:
        return DEEP * min(self.grid.spacing)

    def _boxes(
        self, points: np.ndarray, halo: np.ndarray | int
    ) -> Iterator[tuple[np.ndarray, Shape, Shape, np.ndarray]]:
        """(rows, start, stop, index positions) of the points inside, box by box, so that memory does not grow."""
        known = np.flatnonzero(np.isfinite(points).all(1))
        known = known[self.grid.contains(points[known])]
        place = self.grid.world_to_index(points[known])
        box = np.maximum(np.floor(place / BOX), 0).astype(np.int64)
        counts = -(-np.asarray(self.grid.shape) // BOX) + 1
        key = (box[:, 0] * counts[1] + box[:, 1]) * counts[2] + box[:, 2]
        order = np.argsort(key, kind="stable")
        edges = np.flatnonzero(np.diff(key[order])) + 1
        for part in np.split(order, edges) if len(order) else ():
            low, high = place[part].min(0), place[part].max(0)
            start = triple(int(v) for v in np.maximum(np.floor(low) - halo, 0))
            stop = triple(int(v) for v in np.minimum(np.ceil(high) + 1 + halo, self.grid.shape))
            yield known[part], start, stop, place[part]


@dataclass(frozen=True, eq=False)
class Split(Choice):
    """A step that is another map in each piece: where it starts, labels say which.

    maps     one a piece
    labels   and the label of each, in the image `where`
    """

    maps: tuple[Map, ...]
    labels: tuple[int, ...]
    where: Labels

    def chosen(self, points: np.ndarray) -> np.ndarray:
        """(N,) the number of the piece that each of the points (N, 3), um, lies in; NONE in the gap."""
        found = self.where.at(points)
        out = np.full(len(points), NONE)
        for number, label in enumerate(self.labels):
            out[found == label] = number
        return out


@dataclass(frozen=True, eq=False)
class Claimed(Choice):
    """The step back: which piece a point belongs to is known where it ends.

    Where pieces overlap in the other frame, or touch and their maps differ by a little, two claim a point or none does.
    Of two claims the deeper one counts; where both are sure, DEEP voxels from the border, the maps contradict each
    other and the point is in none. What no piece claims goes to the one that it touches most, if it ends less than half
    a voxel beyond that; else it is in the gap.
    """

    maps: tuple[Map, ...]
    labels: tuple[int, ...]
    where: Labels

    def chosen(self, points: np.ndarray) -> np.ndarray:
        """(N,) the number of the piece that each of the points (N, 3), um, belongs to; NONE, or CONTESTED."""
        out, claims = np.full(len(points), NONE), np.zeros(len(points), np.uint8)
        for number, label, ends in self._ends(points):
            own = self.where.at(ends) == label
            out[own & (claims == 0)] = number
            claims += own & (claims < 2)
        missed, several = np.flatnonzero(claims == 0), np.flatnonzero(claims == 2)
        best, first = np.zeros(len(missed)), np.full(len(missed), NONE)
        for number, label, ends in self._ends(points[missed]):
            share = self.where.share(ends, label)
            first[share > best] = number
            best = np.maximum(best, share)
        out[missed] = first
        best, first, sure = np.full(len(several), -1.0), np.full(len(several), NONE), np.zeros(len(several), int)
        for number, label, ends in self._ends(points[several]):
            rows = np.flatnonzero(self.where.at(ends) == label)
            depth = np.full(len(several), -1.0)
            depth[rows] = self.where.depth(ends[rows], label)
            sure += depth >= self.where.deepest * (1 - 1e-6)
            first[depth > best] = number
            best = np.maximum(best, depth)
        out[several] = np.where(sure > 1, CONTESTED, first)
        return out

    def _ends(self, points: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """Number and label of each piece, and where its map takes the points; one at a time, however many there are."""
        for number, (map_, label) in enumerate(zip(self.maps, self.labels, strict=True) if len(points) else ()):
            yield number, label, map_.points(points)
