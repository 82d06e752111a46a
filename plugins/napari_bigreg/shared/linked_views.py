"""A second view, of the moving image, that follows the first through the current map, and is followed by it.

What is linked is the point at the centre of the view: the other view centres on where the map takes it, in the same
slice direction and at the same um a pixel. The map is read in a thread; while it is, the latest wish replaces others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from napari.components.viewer_model import ViewerModel

from .threads import later, start

PAUSE_MS = 30


def centre_of(viewer: Any) -> np.ndarray:
    """The world point (um; z, y, x) at the centre of a view, on its slice."""
    point = np.asarray(viewer.dims.point, dtype=float)[-3:].copy()
    shown = [axis - viewer.dims.ndim + 3 for axis in viewer.dims.displayed]
    point[shown] = np.asarray(viewer.camera.center)[-len(shown) :]
    return point


def centre_on(viewer: Any, point: np.ndarray) -> None:
    """Bring a world point to the centre of a view, and the view to its slice."""
    offset = viewer.dims.ndim - 3
    shown = [axis - offset for axis in viewer.dims.displayed]
    for axis in range(3):
        if axis not in shown:
            viewer.dims.set_point(axis + offset, float(point[axis]))
    centre = [float(point[axis]) for axis in shown]
    viewer.camera.center = (*[0.0] * (3 - len(centre)), *centre)


class LinkedViews:
    """`other` is the second view's model; `follow(side, point)` says where the map takes a point of a side."""

    def __init__(self, viewer: Any, follow: Callable[[str, np.ndarray], np.ndarray]) -> None:
        self.viewer = viewer
        self.other = ViewerModel(title="moving", ndisplay=viewer.dims.ndisplay)
        self.follow = follow
        self.enabled = True
        self._applying = False
        self._wish: str | None = None
        self._job: Any = None
        self._timer = later(PAUSE_MS, self._go)
        self._connections = [
            (emitter, lambda event=None, side=side: self._moved(side))
            for side, view in self.views.items()
            for emitter in (
                view.camera.events.center, view.camera.events.zoom, view.camera.events.angles,
                view.dims.events.point, view.dims.events.order, view.dims.events.ndisplay,
            )
        ]  # fmt: skip
        for emitter, call in self._connections:
            emitter.connect(call)

    @property
    def views(self) -> dict[str, Any]:
        return {"fixed": self.viewer, "moving": self.other}

    def enable(self, on: bool) -> None:
        self.enabled = on
        if on:
            self._moved("fixed")

    def go_to(self, point: np.ndarray, side: str = "fixed") -> None:
        """Bring a point to the centre of its view; the other one follows."""
        centre_on(self.views[side], point)
        self._moved(side)

    def show(self, points: dict[str, np.ndarray]) -> None:
        """Bring a point of each side to the centre of its view."""
        self._applying = True
        try:
            for side, point in points.items():
                centre_on(self.views[side], point)
        finally:
            self._applying = False

    def close(self) -> None:
        for emitter, call in self._connections:
            emitter.disconnect(call)
        self._connections = []
        self.enabled, self._wish = False, None
        self._timer.stop()
        if self._job is not None:
            self._job.cancel()

    def _moved(self, side: str) -> None:
        if self.enabled and not self._applying:
            self._wish = side
            self._timer.start()

    def _go(self) -> None:
        if self._job is not None or self._wish is None:
            return
        side, self._wish = self._wish, None
        point = centre_of(self.views[side])
        self._job = start(
            lambda report: self.follow(side, point), "Following", bar=False,
            done=lambda there: self._apply(side, there), ended=self._ended,
        )  # fmt: skip

    def _ended(self) -> None:
        self._job = None
        if self._wish is not None:
            self._timer.start()

    def _apply(self, side: str, point: np.ndarray) -> None:
        if not np.isfinite(point).all() or self._wish is not None:
            return
        here = self.views[side]
        there = self.views["moving" if side == "fixed" else "fixed"]
        self._applying = True
        try:
            if there.dims.ndim == here.dims.ndim:
                there.dims.order = here.dims.order
            there.dims.ndisplay = here.dims.ndisplay
            there.camera.zoom = here.camera.zoom
            there.camera.angles = here.camera.angles
            centre_on(there, point)
        finally:
            self._applying = False
