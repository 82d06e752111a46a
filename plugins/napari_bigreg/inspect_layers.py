"""The layers that the Inspect panel draws into a viewer, kept and changed in place: a slice may move quickly."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Vectors

from bigreg.geometry import Grid

from .colours import ARROW, FOLD
from .open_model import AXES, UNITS, dots, placed
from .panel import layer_of
from .planes import Plane

NAMES = {"picture": "overlay", "arrows": "arrows", "grid": "deformed grid", "folds": "folds", "map": "map of blocks"}
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
        return {"name": NAMES[what], "metadata": metadata, "units": UNITS, "axis_labels": AXES}

    def _picture(self, plane: Plane, picture: np.ndarray, grid: Grid) -> None:
        data = np.expand_dims(picture, plane.axis)
        layer = self.layer("picture")
        where = {"scale": grid.spacing, "translate": grid.origin}
        if layer is None:
            active = self.viewer.layers.selection.active
            self.viewer.add_image(data, rgb=True, **self._settings("picture"), **where)
            self._below("picture", ("arrows", "grid", "jacobian", "risk", "map", "folds", "blocks", "block"))
            self.viewer.layers.selection.active = active
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
            active = self.viewer.layers.selection.active
            style = "arrow" if what == "arrows" else "line"
            layer = Vectors(
                vectors, length=longer, edge_width=width, vector_style=style, edge_color=ARROW, **self._settings(what)
            )
            layer._max_vectors_thumbnail = 32  # of 1024 each change of the layer would take a tenth of a second
            self.viewer.add_layer(layer)
            self.viewer.layers.selection.active = active
            return
        layer.data = vectors
        for name, value in (("edge_width", width), ("length", longer)):
            if getattr(layer, name) != value:
                setattr(layer, name, value)

    def folds(self, points: np.ndarray, spacing: float) -> None:
        """Every fold as a point."""
        self.remove("folds")
        places, where = dots(points, 4 * spacing)
        settings = {**self._settings("folds"), **where}
        self.viewer.add_points(
            places, ndim=3, face_color=FOLD, border_color="black", symbol="square", **settings
        )  # fmt: skip

    def block_map(self, name: str, values: np.ndarray, blocks: Any, colormap: str) -> None:
        """A value a block as a translucent layer."""
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        self.viewer.add_image(
            values, **{**self._settings("map"), "name": name}, colormap=colormap, opacity=0.5, blending="translucent",
            contrast_limits=(low, high if high > low else low + 1e-6), interpolation2d="nearest",
            **{key: value for key, value in placed(blocks.grid).items() if key not in ("units", "axis_labels")},
        )  # fmt: skip

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
        layer = self.layer("block")
        if layer is not None and layer.metadata["bigreg"]["grid"] == grid.matrix:  # a new layer takes much longer
            layer.data = [corners]
            return
        self.remove("block")
        active = self.viewer.layers.selection.active
        metadata = {"bigreg": {"run": self.url, "what": "block", "grid": grid.matrix}}
        self.viewer.add_shapes(
            [corners], shape_type="polygon", name="block", face_color="transparent", edge_color="white",
            edge_width=0.02, metadata=metadata, **placed(grid),
        )  # fmt: skip
        self.viewer.layers.selection.active = active
