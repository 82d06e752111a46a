"""The layers that the Inspect panel draws into a viewer, kept and changed in place: a slice may move quickly."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image, Points, Vectors

from bigreg.geometry import Grid

from .colours import ARROW, FOLD
from .open_model import AXES, UNITS, dots, placed
from .panel import layer_of, move
from .planes import Plane
from .threads import in_turns

NAMES = {"picture": "overlay", "grid": "deformed grid"}
"""Of those that are not called what they are."""
ON_SLICE = ("picture", "arrows", "grid")


class Drawn:
    """What is drawn of the run at `url`."""

    def __init__(self, viewer: Any, url: str) -> None:
        self.viewer = viewer
        self.url = url

    def layer(self, what: str) -> Any | None:
        return layer_of(self.viewer, self.url, what)

    def remove(self, what: str) -> None:
        layer = self.layer(what)
        if layer is not None:
            self.viewer.layers.remove(layer)

    def keep(self, **wanted: bool) -> None:
        """Hide those that are not wanted: one that is made anew costs more than one that is hidden."""
        for what, shown in wanted.items():
            layer = self.layer(what)
            if layer is not None:
                layer.visible = shown

    def follow(self, plane: Plane) -> None:
        """Keep what was drawn last in sight until what belongs to the slice is there."""
        for what in ON_SLICE:
            layer = self.layer(what)
            if layer is not None and layer.visible:
                where = np.asarray(layer.translate, dtype=float).copy()
                if where[plane.axis] != plane.at:  # setting it draws the layer anew
                    where[plane.axis] = plane.at
                    layer.translate = where

    def show(self, plane: Plane, found: dict[str, Any], longer: float) -> None:
        """Draw what was computed for a slice: picture, arrows, grid."""
        if "picture" in found:
            self._picture(plane, *found["picture"])
        if "arrows" in found:
            self._vectors("arrows", plane, found["arrows"], longer)
        if "grid" in found:
            self._vectors("grid", plane, found["grid"], 1.0)
        self.follow(plane)

    def _settings(self, what: str) -> dict[str, Any]:
        metadata = {"bigreg": {"run": self.url, "what": what}}
        return {"name": NAMES.get(what, what), "metadata": metadata, "units": UNITS, "axis_labels": AXES}

    def _picture(self, plane: Plane, picture: np.ndarray, grid: Grid) -> None:
        data = np.expand_dims(picture, plane.axis)
        layer = self.layer("picture")
        where = {"scale": grid.spacing, "translate": grid.origin}
        if layer is None:
            self._add(Image(data, rgb=True, **self._settings("picture"), **where))
            above = ("arrows", "grid", "jacobian", "risk", "noncorrespondence", "map", "folds", "blocks", "block")
            self._below("picture", above)
            return
        layer.data = data
        layer.scale, layer.translate = where["scale"], where["translate"]

    def _below(self, what: str, others: tuple[str, ...]) -> None:
        layers = self.viewer.layers
        above = [layers.index(layer) for layer in map(self.layer, others) if layer is not None]
        place = layers.index(self.layer(what))
        if above and min(above) < place:
            layers.move(place, min(above))

    def _vectors(self, what: str, plane: Plane, vectors: np.ndarray, longer: float) -> None:
        vectors = vectors.copy()
        vectors[:, 0, plane.axis] = 0.0  # the layer's own place says where the slice is
        width = 1.6 * plane.pixel
        layer = self.layer(what)
        if layer is None:
            style = "arrow" if what == "arrows" else "line"
            layer = Vectors(
                vectors, length=longer, edge_width=width, vector_style=style, edge_color=ARROW, **self._settings(what)
            )
            layer._max_vectors_thumbnail = 32  # of 1024 each change of the layer would take a tenth of a second
            self._add(layer)
            return
        layer.data = vectors
        for name, value in (("edge_width", width), ("length", longer)):
            if getattr(layer, name) != value:
                setattr(layer, name, value)

    def folds(self, points: np.ndarray, spacing: float) -> None:
        """Every fold as a point."""
        places, where = dots(points, 4 * spacing)
        layer = self.layer("folds")
        if layer is None:
            style = {"face_color": FOLD, "border_color": "black", "symbol": "square"}
            self._add(Points(places, ndim=3, **style, **{**self._settings("folds"), **where}))
            return
        layer.data, layer.visible = places, True

    def block_map(self, name: str, values: np.ndarray, blocks: Any, colormap: str) -> None:
        """A value a block as a translucent layer."""
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        limits, place = (low, high if high > low else low + 1e-6), placed(blocks.grid)
        layer = self.layer("map")
        if layer is None:
            self._add(
                Image(
                    values, colormap=colormap, contrast_limits=limits, opacity=0.5, blending="translucent",
                    interpolation2d="nearest", **{**self._settings("map"), "name": name, **place},
                )
            )  # fmt: skip
            return
        layer.data, layer.name, layer.colormap, layer.contrast_limits = values, name, colormap, limits
        move(layer, place)
        layer.visible = True

    def mark(self, grid: Grid, index: tuple[int, int, int], plane: Plane) -> None:
        """A frame around a block, on a slice."""
        here = np.asarray(plane.centre, dtype=float)
        here[plane.axis] = plane.at
        corners = np.tile(np.asarray(index, dtype=float), (4, 1))
        corners[:, plane.axis] = grid.world_to_index(here[None])[0][plane.axis]
        down, right = plane.shown
        for corner, (a, b) in enumerate(((-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5))):
            corners[corner, down] += a
            corners[corner, right] += b
        frame = np.stack([corners, np.roll(corners, -1, axis=0) - corners], axis=1)
        layer = self.layer("block")
        if layer is None:  # lines rather than a shape, for whose first one napari loads for a second
            settings = {**self._settings("block"), **placed(grid)}
            self._add(Vectors(frame, edge_width=0.02, vector_style="line", edge_color="white", **settings))
            return
        layer.data = frame
        move(layer, placed(grid))

    def _add(self, layer: Any) -> None:
        """Above all others; the one that was chosen is so again a turn of the window later, as each takes its time."""
        active = self.viewer.layers.selection.active
        self.viewer.add_layer(layer)
        in_turns(lambda: setattr(self.viewer.layers.selection, "active", active))
