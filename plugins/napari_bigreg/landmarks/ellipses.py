"""Where the map puts the other point of each pair, and how sure it is: 95 % ellipses in the plane that is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from napari.layers import Vectors

from ..shared.open_model import AXES, UNITS
from ..shared.registration import SIDES
from .model import Expected, LandmarksModel

LIKELY = 0.95
PIECES = 48
"""Straight pieces of an outline."""
LINE = 0.06
"""Voxels: how thick it is."""
COLOUR = "#ff2020"


def outlines(expected: Expected, axes: tuple[int, int]) -> np.ndarray:
    """Ellipses in the plane of two world axes: (N * PIECES, 2, 3), start and step of each straight piece, um.

    With errors that are normally distributed, 95 % of the true places are within the ellipse, seen along the third
    axis, wherever they are along it. What is not known is left out.
    """
    known = np.isfinite(expected.places).all(1) & np.isfinite(expected.covariances).all((1, 2))
    places, own = expected.places[known], expected.covariances[known][:, axes][:, :, axes]
    values, vectors = np.linalg.eigh(own)
    # The square of the distance from the centre in SDs has two degrees of freedom.
    radii = math.sqrt(-2 * math.log(1 - LIKELY)) * np.sqrt(np.maximum(values, 0))
    turns = np.linspace(0, 2 * np.pi, PIECES + 1)
    circle = np.stack([np.cos(turns), np.sin(turns)])
    flat = np.einsum("nij,nj,jk->nki", vectors, radii, circle)
    around = np.zeros((len(places), PIECES + 1, 3))
    around[..., axes] = flat
    around += places[:, None]
    return np.stack([around[:, :-1], np.diff(around, axis=1)], axis=2).reshape(-1, 2, 3)


class EllipseLayers:
    """The outlines as one layer a view, in the plane that the view shows; in 3-D, in all three.

    views    fixed, moving: napari's viewers
    units    of each side: um of a unit of its layer; what is within half of one from a slice is shown
    """

    def __init__(self, model: LandmarksModel, views: Mapping[str, Any], units: Mapping[str, float]) -> None:
        self.model = model
        self.views = views
        self.units = units
        self.shown = True
        self.expected: Mapping[str, Expected] = {}
        self.layers: dict[str, Vectors] = {}
        self._connections: list[tuple[Any, Callable[..., None]]] = [
            (emitter, lambda event=None, side=side: self._draw(side))
            for side in SIDES
            for emitter in (views[side].dims.events.order, views[side].dims.events.ndisplay)
        ]
        for emitter, call in self._connections:
            emitter.connect(call)

    def show(self, expected: Mapping[str, Expected]) -> None:
        """Draw what is expected on each side."""
        self.expected = expected
        for side in SIDES:
            self._draw(side)

    def enable(self, on: bool) -> None:
        """Whether they are to be seen."""
        self.shown = on
        for layer in self.layers.values():
            layer.visible = on

    def close(self) -> None:
        """Leave the layers to themselves."""
        for emitter, call in self._connections:
            emitter.disconnect(call)
        self._connections = []

    def _draw(self, side: str) -> None:
        if side not in self.expected:
            return
        view, unit = self.views[side], self.units[side]
        axes = sorted(axis - view.dims.ndim + 3 for axis in view.dims.displayed)
        each = [outlines(self.expected[side], (a, b)) for a, b in combinations(axes, 2)]
        data = np.concatenate(each) / unit
        layer = self.layers.get(side)
        if layer is not None and layer in view.layers:
            layer.data = data
        elif len(data):
            self.layers[side] = self._layer(side, data)

    def _layer(self, side: str, data: np.ndarray) -> Vectors:
        """A new one; the points keep the mouse."""
        layers, unit = self.views[side].layers, self.units[side]
        width = LINE * float(min(self.model.images[side][0].grid.spacing))
        mine = {"run": self.model.run.url, "what": "ellipses"}
        for old in [x for x in layers if x.metadata.get("bigreg") == mine]:
            layers.remove(old)
        active = layers.selection.active
        layer = Vectors(
            data, name="95 % ellipses", metadata={"bigreg": mine}, edge_color=COLOUR, vector_style="line", length=1,
            edge_width=width / unit, scale=(unit,) * 3, visible=self.shown, units=UNITS, axis_labels=AXES,
        )  # fmt: skip
        self.views[side].add_layer(layer)
        layers.selection.active = active
        return layer
