"""The points of pairs as one napari layer a view: what a person adds, drags or deletes there changes the pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from napari.layers import Points
from napari.layers.base import ActionType

from ..shared.open_model import AXES, UNITS
from ..shared.registration import SIDES
from .model import LandmarksModel, Pair

THICKNESS = 6
"""Voxels, in all: how far from a slice its landmarks are shown."""
SET, PROPOSED, UNUSED = "#ffd400", "#00d5ff", "#8a919c"


class PairLayers:
    """Two-way binding of a model to a Points layer in each view.

    placed   called with a pair one of whose points was set by hand
    chosen   called with the pairs that were chosen in a view
    """

    def __init__(
        self,
        model: LandmarksModel,
        views: dict[str, Any],
        *,
        placed: Callable[[Pair], Any],
        chosen: Callable[[list[Pair]], Any],
    ) -> None:
        self.model = model
        self.views = views
        self.placed = placed
        self.chosen = chosen
        self._busy = False
        self._rows: dict[str, list[Pair]] = {side: [] for side in SIDES}
        # napari shows the points that are within half a unit of their layer from the slice: make that some voxels. As
        # the unit is a power of two, points in it are the same bits.
        self.units = {
            side: 2.0 ** round(math.log2(THICKNESS * max(model.images[side][0].grid.spacing))) for side in SIDES
        }
        self.layers = {side: self._layer(side) for side in SIDES}
        self._connections: list[tuple[Any, Callable[..., None]]] = []
        for side, layer in self.layers.items():
            self._connections += [
                (layer.events.data, lambda event, side=side: self._changed(side, event)),
                (layer.selected_data.events.items_changed, lambda *changes, side=side: self._selected(side)),
            ]
        for emitter, call in self._connections:
            emitter.connect(call)

    def _layer(self, side: str) -> Points:
        """A new layer of a side, in place of that which opening the run has made."""
        mine = {"run": self.model.run.url, "what": "landmarks"}
        layers = self.views[side].layers
        for layer in [x for x in layers if isinstance(x, Points) and x.metadata.get("bigreg") == mine]:
            layers.remove(layer)
        spacing, unit = self.model.images[side][0].grid.spacing, self.units[side]
        layer = Points(
            np.empty((0, 3)), ndim=3, name="landmarks", metadata={"bigreg": mine}, face_color=SET, border_color="black",
            size=6 * float(np.mean(spacing)) / unit, scale=(unit,) * 3, units=UNITS, axis_labels=AXES,
        )  # fmt: skip
        self.views[side].add_layer(layer)
        return layer

    def close(self) -> None:
        """Leave the layers to themselves."""
        for emitter, call in self._connections:
            emitter.disconnect(call)
        self._connections = []

    def adding(self, on: bool) -> None:
        """Whether a click in a view places a point."""
        for side, layer in self.layers.items():
            self.views[side].layers.selection.active = layer
            layer.mode = "add" if on else "select"

    def choose(self, pairs: list[Pair]) -> None:
        """Mark pairs in both views."""
        self._busy = True
        try:
            for side, layer in self.layers.items():
                rows = self._rows[side]
                layer.selected_data = {i for i, row in enumerate(rows) if any(row is p for p in pairs)}
        finally:
            self._busy = False

    def refresh(self) -> None:
        """Show the pairs as they are."""
        if self._busy:
            return
        self._busy = True
        try:
            for side, layer in self.layers.items():
                self._show(side, layer)
        finally:
            self._busy = False

    def _show(self, side: str, layer: Points) -> None:
        rows = [p for p in self.model.pairs if p.shown(side) is not None]
        points = np.array([p.shown(side) for p in rows]).reshape(-1, 3) / self.units[side]
        if points.shape != layer.data.shape or not np.array_equal(points, layer.data):
            chosen = [self._rows[side][i] for i in layer.selected_data if i < len(self._rows[side])]
            layer.selected_data = set()
            layer.data = points
            layer.selected_data = {i for i, row in enumerate(rows) if any(row is p for p in chosen)}
        self._rows[side] = rows
        if not rows:
            return
        layer.features = {"name": [p.name for p in rows]}
        layer.text = {"string": "{name}", "color": "white", "anchor": "upper_left", "size": 10}
        layer.face_color = [UNUSED if not p.active else PROPOSED if p.lacks == side else SET for p in rows]

    def _selected(self, side: str) -> None:
        if not self._busy:
            rows = self._rows[side]
            pairs = [rows[i] for i in self.layers[side].selected_data if i < len(rows)]
            self.choose(pairs)
            self.chosen(pairs)

    def _changed(self, side: str, event: Any) -> None:
        if self._busy or event.action not in (ActionType.ADDED, ActionType.CHANGED, ActionType.REMOVED):
            return
        layer, rows = self.layers[side], self._rows[side]
        points = np.array(layer.data, dtype=float) * self.units[side]
        if event.action == ActionType.ADDED:
            for point in points[len(rows) :]:
                self._add(side, point)
        elif event.action == ActionType.REMOVED:
            self.model.remove([rows[i] for i in event.data_indices if i < len(rows)])
        else:
            for pair, point in zip(rows, points, strict=False):
                shown = pair.shown(side)
                if shown is None or not np.array_equal(shown, point):
                    self.model.place(pair, side, point)

    def _add(self, side: str, point: np.ndarray) -> None:
        pair = self.model.add(side, point)
        self.placed(pair)
        self.chosen([pair])
