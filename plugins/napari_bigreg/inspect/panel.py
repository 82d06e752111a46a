"""The panel that judges a result: overlays of the slice that is seen, the deformation, the worst blocks, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from bigreg.geometry import triple

from ..shared.drawn import Drawn
from ..shared.lazy import warn
from ..shared.open_model import RunView, enlargement
from ..shared.panel import Work, adding, camera_of, layer_of, runs_of, verdict_text
from ..shared.planes import Plane
from ..shared.threads import later
from .controls import InspectControls
from .model import BLEND, CHECKER, COMPUTED, FLICKER, SWIPE, InspectModel

FLICKER_MS = 500
SETTLE_MS = 120
"""After the last move of the viewer before the slice is computed."""
BLOCK_PIXELS = 300
"""Of the canvas, that the block is to take to which one goes."""
NO_MAP = "none"


class InspectPanel(InspectControls):
    """A result in a viewer, slice by slice. `set_run` chooses one."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.model: InspectModel | None = None
        self.drawn: Drawn | None = None
        self.ranked: list[tuple[tuple[int, int, int], float]] = []
        self.place = -1
        self._work = Work(self)
        self._busy = self._again = False
        self._settle = later(SETTLE_MS, self.compute)
        self._settle.setParent(self)
        self._flicker = QTimer(self)
        self._flicker.setInterval(FLICKER_MS)
        self._flicker.timeout.connect(self._flick)
        self._connect()
        self._enable()
        if self.choice.url:
            self.set_run(self.choice.url)

    @property
    def opened(self) -> InspectModel:
        """The model, for what can be done only while there is a run."""
        assert self.model is not None
        return self.model

    @property
    def drawing(self) -> Drawn:
        """What is drawn, for what can be done only while there is a run."""
        assert self.drawn is not None
        return self.drawn

    def _connect(self) -> None:
        self.viewer.dims.events.connect(self._moved)
        camera_of(self.viewer).events.zoom.connect(self._moved)
        camera_of(self.viewer).events.center.connect(self._moved)
        self.choice.chosen.connect(self.set_run)
        self.mode.currentTextChanged.connect(lambda _: self.show_overlay())
        self.before.toggled.connect(lambda _: self.show_overlay())
        self.tile.valueChanged.connect(lambda _: self._settle.start())
        self.curtain.valueChanged.connect(lambda _: self._settle.start())
        for box in (self.arrows, self.grid):
            box.toggled.connect(lambda _: self.compute())
        for length in (self.density, self.longer):
            length.valueChanged.connect(lambda _: self._settle.start())
        self.jacobian.toggled.connect(lambda shown: self._show("jacobian", shown))
        self.risk.toggled.connect(lambda shown: self._show("risk", shown))
        self.folds.toggled.connect(self._show_folds)
        self.map.currentTextChanged.connect(self._show_map)
        self.rank.currentTextChanged.connect(self._rank)
        self.previous.clicked.connect(lambda: self.go(-1))
        self.next.clicked.connect(lambda: self.go(1))
        self.solid.toggled.connect(self._show_solid)
        self.screenshot.clicked.connect(self._ask_screenshot)
        self.figure.clicked.connect(self._ask_figure)

    # ------------------------------------------------------------------------------------------------ the run

    def set_run(self, url: str) -> None:
        """Inspect a run from now on; its layers are opened if they are not yet."""
        self.text.setText(f"opening {url} …")
        there = url in runs_of(self.viewer)

        def work(report: Any) -> tuple[InspectModel, list, list[str]]:
            model = InspectModel(url)
            problems: list[str] = []
            return model, [] if there else RunView(url, problems.append).layers(), problems

        self._work.start(work, "Open", done=self._opened, failed=self._failed, bar=False)

    def _failed(self, error: Exception) -> None:
        self.text.setText(str(error))

    def _opened(self, found: tuple[InspectModel, list, list[str]]) -> None:
        model, layers, problems = found
        for problem in problems:
            warn(problem)
        self._work.in_turns(*adding(self.viewer, layers), lambda: self._inspect(model))

    def _inspect(self, model: InspectModel) -> None:
        self.model, self.drawn = model, Drawn(self.viewer, model.url)
        self.choice.box.setEditText(model.url)
        after = "" if model.after is not None else "; there is no warped image (yet): the affine alone is shown"
        self.text.setText(f"{model.state}{after}")
        self.verdict.setText(verdict_text(model.verdict))
        self.verdict.setVisible(model.verdict is not None)
        extent = np.multiply(model.fixed[0].grid.shape, model.fixed[0].grid.spacing)
        for box, value in ((self.tile, round(float(extent.max()) / 16, 1)), (self.longer, self._usual_length(extent))):
            box.blockSignals(True)
            box.setValue(value)
            box.blockSignals(False)
        for names, first in ((self.map, [NO_MAP]), (self.rank, [])):
            names.blockSignals(True)
            names.clear()
            names.addItems([*first, *model.maps()])
            names.blockSignals(False)
        self._rank()
        self._enable()
        self.show_overlay()

    def _usual_length(self, extent: np.ndarray) -> float:
        if self.opened.lengths is None:
            return 1.0
        return enlargement(self.opened.lengths, float(extent.max()) / self.density.value())

    def _enable(self) -> None:
        there = self.model is not None
        field = there and self.opened.field is not None
        for widget in (self.mode, self.before, self.tile, self.curtain, self.map, self.rank, self.solid, self.figure):
            widget.setEnabled(there)
        for drawn in (self.arrows, self.grid, self.density, self.longer, self.jacobian, self.folds):
            drawn.setEnabled(field)
        for button in (self.previous, self.next):
            button.setEnabled(bool(self.ranked))
        self.before.setEnabled(there and self.opened.after is not None)
        self.risk.setEnabled(there and layer_of(self.viewer, self.opened.url, "risk") is not None)

    # ------------------------------------------------------------------------------------------------ the slice

    def plane(self) -> Plane:
        """The slice that is seen."""
        axis = int(self.viewer.dims.order[-3]) if len(self.viewer.dims.order) >= 3 else 0
        point = self.viewer.dims.point[-3:]
        camera = camera_of(self.viewer)
        centre = triple(tuple(float(c) for c in camera.center)[-3:])
        return Plane(axis, float(point[axis]), centre, 1.0 / max(float(camera.zoom), 1e-9))

    def _moved(self, event: Any = None) -> None:
        if not isalive(self) or self.model is None or (event is not None and event.type not in MOVES):
            return
        if self.viewer.dims.ndisplay == 2:
            self.drawing.follow(self.plane())
        self._settle.start()

    def show_overlay(self) -> None:
        """Show the layers that the overlay is made of, or compute the one that it is."""
        if self.model is None:
            return
        mode = self.mode.currentText()
        self.tile.setEnabled(mode == CHECKER)
        self.curtain.setEnabled(mode == SWIPE)
        self._flicker.stop()
        moving = "affine" if self.before.isChecked() or self.model.after is None else "warped"
        solid = self.viewer.dims.ndisplay == 3
        shown = {"fixed", moving} if mode == BLEND or solid else {"fixed"} if mode == FLICKER else set()
        for what in ("fixed", "affine", "warped"):
            layer = layer_of(self.viewer, self.model.url, what)
            if layer is not None:
                layer.visible = what in shown
        if mode == FLICKER and not solid:
            self._flicker.start()
        self.compute()

    def _flick(self) -> None:
        """One image, then the other."""
        moving = "affine" if self.before.isChecked() or self.opened.after is None else "warped"
        layers = [layer_of(self.viewer, self.opened.url, what) for what in ("fixed", moving)]
        fixed, other = layers
        if fixed is None or other is None:
            self._flicker.stop()
            return
        first = not fixed.visible
        fixed.visible, other.visible = first, not first

    def compute(self) -> None:
        """Compute what is drawn on this slice, in a thread; once more afterwards if it has moved by then."""
        if self.model is None:
            return
        if self._busy:
            self._again = True
            return
        mode, solid = self.mode.currentText(), self.viewer.dims.ndisplay == 3
        picture = mode in COMPUTED and not solid
        arrows, grid = (box.isChecked() and not solid for box in (self.arrows, self.grid))
        self.drawing.keep(picture=picture, arrows=arrows, grid=grid)
        if not (picture or arrows or grid):
            return
        model, plane, before = self.model, self.plane(), self.before.isChecked()
        count, longer = self.density.value(), self.longer.value()
        options = {"tile_um": self.tile.value(), "curtain": self.curtain.value() / 100}

        def work(report: Any) -> dict[str, Any]:
            found: dict[str, Any] = {}
            if picture:
                found["picture"] = model.overlay(mode, plane, before=before, **options)
            report(0, 0, "")
            if arrows:
                found["arrows"] = model.arrows(plane, count)
            if grid:
                found["grid"] = model.deformed_grid(plane, count, longer)
            return found

        def done(found: dict[str, Any]) -> None:
            if model is self.model:
                self.drawing.show(plane, found, longer)

        self._busy = True
        self._work.start(work, "Slice", done=done, failed=self._failed, ended=self._computed, bar=False)

    def _computed(self) -> None:
        self._busy = False
        if self._again:
            self._again = False
            self.compute()

    def _show(self, what: str, shown: bool) -> None:
        layer = layer_of(self.viewer, self.opened.url, what)
        if layer is not None:
            layer.visible = shown

    def _show_folds(self, shown: bool) -> None:
        if not shown:
            self.drawing.keep(folds=False)
            return
        model = self.opened

        def done(points: np.ndarray) -> None:
            self.folds.setText(f"folds: {len(points)}")
            self.drawing.folds(points, float(min(model.fixed[0].grid.spacing)))

        self._work.start(lambda report: model.folds(), "Look for folds", done=done, failed=self._failed)

    def _show_map(self, name: str) -> None:
        if not name or name == NO_MAP:
            self.drawing.keep(map=False)
        else:
            self.drawing.block_map(name, *self.opened.block_map(name))

    def _show_solid(self, shown: bool) -> None:
        self.viewer.dims.ndisplay = 3 if shown else 2
        self.show_overlay()

    # ------------------------------------------------------------------------------------------------ worst blocks

    def _rank(self, _: str = "") -> None:
        name = self.rank.currentText()
        self.ranked = self.model.worst(name) if self.model is not None and name else []
        self.place = -1
        self.where.setText(f"{len(self.ranked)} blocks" if self.ranked else "no block has this metric")
        self._enable()

    def go(self, step: int) -> None:
        """To the next worst block, or back."""
        if not self.ranked:
            return
        self.place = min(max(self.place + step, 0), len(self.ranked) - 1)
        index, value = self.ranked[self.place]
        name = self.rank.currentText()
        _, blocks, _ = self.opened.block_map(name)
        low, high = self.opened.box(name, index)
        centre, size = (low + high) / 2, high - low
        self.where.setText(f"{self.place + 1} of {len(self.ranked)}: block {index}, {name} {value:.3g}")
        self.viewer.dims.set_point(range(3), centre)
        camera_of(self.viewer).center = tuple(centre)
        down, right = self.plane().shown
        camera_of(self.viewer).zoom = BLOCK_PIXELS / max(size[down], size[right], 1e-6)
        self.drawing.mark(blocks.grid, index, self.plane())

    # ------------------------------------------------------------------------------------------------ pictures to keep

    def _ask_screenshot(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Screenshot", "bigreg.png", "PNG (*.png)")
        if path:
            self.save_screenshot(path)

    def save_screenshot(self, path: str) -> None:
        """The canvas as PNG."""
        self.viewer.screenshot(str(Path(path).with_suffix(".png")), flash=False)
        self.text.setText(f"saved {path}")

    def _ask_figure(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Figure", "bigreg.pdf", "PDF (*.pdf);;SVG (*.svg);;PNG (*.png)")
        if path:
            self.save_figure(path)

    def save_figure(self, path: str) -> None:
        """This slice before and after, in a thread."""
        model, plane = self.opened, self.plane()
        self._work.start(
            lambda report: model.export_figure(path, plane, report),
            "Figure",
            done=lambda saved: self.text.setText(f"saved {saved}"),
            failed=self._failed,
        )

    def end(self) -> None:
        self._flicker.stop()
        self._settle.stop()
        self._work.cancel()
        self.viewer.dims.events.disconnect(self._moved)
        camera_of(self.viewer).events.zoom.disconnect(self._moved)
        camera_of(self.viewer).events.center.disconnect(self._moved)


MOVES = ("point", "current_step", "order", "ndisplay", "zoom", "center")
