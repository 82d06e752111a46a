"""The panel that watches a run: its blocks as a layer that refreshes by itself, and what is known of each."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
from napari.layers import Image, Layer
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QDialog, QLabel, QScrollArea, QVBoxLayout

from bigreg.errors import BigregError
from bigreg.geometry import triple

from ..shared.colours import STATUS
from ..shared.drawn import Drawn
from ..shared.open_model import block_layer
from ..shared.panel import Work, camera_of, layer_of, pixmap, verdict_text
from ..shared.pictures import patch_tiles
from ..shared.planes import Plane
from ..shared.processes import log_of, start_process
from ..shared.threads import tell
from .controls import FOLLOW, MonitorControls
from .model import MonitorModel, Snapshot

BUSY_MS, IDLE_MS = 1000, 5000
TILES = ("fixed", "moving, affine", "warped", "fixed + warped")
FIGURES = (
    ("similarity_before", "similarity before", ""),
    ("similarity_after", "similarity after", ""),
    ("confidence", "confidence", ""),
    ("overlap", "overlap", ""),
    ("disagreement", "neighbours disagree", "cells"),
    ("max_displacement", "largest displacement", "µm"),
    ("min_jacobian", "smallest Jacobian", ""),
    ("damped", "damped", ""),
    ("inverse_error", "largest inverse error", "voxels"),
    ("seconds", "time", "s"),
    ("peak_memory", "memory of the worker", "GiB"),
)


class MonitorPanel(MonitorControls):
    """Progress of a run in a viewer. `set_run` chooses one; a click on a block tells about it."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.model: MonitorModel | None = None
        self.snapshot: Snapshot | None = None
        self.block: tuple[str, tuple[int, int, int]] | None = None
        self.patches: Any = None
        self.process: Any = None
        self.layer: Image | None = None
        self.starts_window: QDialog | None = None
        self._drawn_starts: MonitorModel | None = None
        self._work = Work(self)
        self._asking = False
        self._connect()
        self._forget_block()
        self._show_verdict(None)
        self._enable()
        self.timer = QTimer(self)
        self.timer.timeout.connect(self.refresh)
        self.viewer.mouse_drag_callbacks.append(self._clicked)
        if self.choice.url:
            self.set_run(self.choice.url)

    @property
    def opened(self) -> MonitorModel:
        """The model, for what can be done only while there is a run."""
        assert self.model is not None
        return self.model

    @property
    def seen(self) -> Snapshot:
        """The snapshot, for what can be done only once there is one."""
        assert self.snapshot is not None
        return self.snapshot

    def _connect(self) -> None:
        self.choice.chosen.connect(self.set_run)
        self.stage.currentIndexChanged.connect(self._choose_stage)
        self.stop.clicked.connect(self._stop)
        self.resume.clicked.connect(self._resume)
        self.starts.clicked.connect(self._open_starts)
        self.three.clicked.connect(self._open_starts)
        self.accept.valueChanged.connect(lambda _: self._enable())
        self.next_failed.clicked.connect(self._go_to_failed)
        self.plane.valueChanged.connect(self._show_plane)

    # ------------------------------------------------------------------------------------------------ the run

    def set_run(self, url: str) -> None:
        """Watch a run from now on."""
        try:
            self.model = MonitorModel(url)
        except BigregError as error:
            self.model = self.snapshot = None
            self.timer.stop()
            self.text.setText(str(error))
            self._show_verdict(None)
            self._enable()
            return
        self.choice.box.setEditText(self.model.url)
        self.snapshot, self.layer = None, None
        self.three.clear()
        self.accept.setValue(0)
        self._forget_block()
        self.stage.setCurrentIndex(0)
        self.timer.start(BUSY_MS)
        self.refresh()

    def refresh(self) -> None:
        """Ask for the state of the run, in a thread, unless that is under way."""
        if self.model is None or self._asking:
            return
        self._asking, model = True, self.model

        def ended() -> None:
            self._asking = False

        self._work.start(
            lambda report: (model, model.poll()), "run", done=self._show, failed=self._failed, ended=ended, bar=False
        )

    def _failed(self, error: Exception) -> None:
        self.text.setText(str(error))

    def _show(self, answer: tuple[MonitorModel, Snapshot]) -> None:
        model, snapshot = answer
        if model is not self.model:
            return
        self.snapshot = snapshot
        self.bar.setValue(round(1000 * snapshot.fraction))
        text = snapshot.text
        if self.process is not None and self.process.poll() not in (None, 0):
            text += f"; the last resume ended with an error: {_last_line(log_of(model.url))}"
        self.text.setText(text)
        self._show_verdict(snapshot.status.verdict)
        self._list_stages(snapshot)
        self._draw(snapshot)
        self._enable()
        self.timer.setInterval(BUSY_MS if snapshot.holder or snapshot.status.state == "planned" else IDLE_MS)
        if self.block is not None and self.block[0] == snapshot.stage:
            self._refresh_block(snapshot)

    def _show_verdict(self, verdict: Any | None) -> None:
        self.verdict.setText(verdict_text(verdict))
        self.verdict.setVisible(verdict is not None)

    def _enable(self) -> None:
        snapshot = self.snapshot
        held = snapshot is not None and snapshot.holder is not None
        going = self.process is not None and self.process.poll() is None
        self.stop.setEnabled(held)
        told = () if snapshot is None else snapshot.status.start
        self.start.setText("\n".join(("the start: " + told[0], *told[1:])) if told else "")
        self.start.setVisible(bool(told))
        self.starts.setVisible(bool(told))
        doubtful = snapshot is not None and bool(told) and snapshot.status.start_doubtful
        self.accept.setVisible(doubtful)
        self.three.setVisible(doubtful and not self.three.pixmap().isNull())
        if doubtful and self._drawn_starts is not self.model:  # a choice is asked for: it is made by the picture
            self._drawn_starts = self.model
            self._read_starts(self._show_three)
        self.resume.setEnabled(snapshot is not None and not held and not going and snapshot.status.state != "finished")
        if snapshot is not None and snapshot.status.start_doubtful and not self.accept.value():
            self.resume.setEnabled(False)  # it would stop again at once
        self.next_failed.setEnabled(snapshot is not None and bool(snapshot.failed))

    def _read_starts(self, show: Callable[[QPixmap], Any]) -> None:
        """Get the picture of the best starts, in a thread, and show it."""
        model = self.opened

        def read(png: bytes | None) -> None:
            picture = QPixmap()
            if model is not self.model:
                return
            if not png or not picture.loadFromData(png):
                self.start.setText(f"{self.start.text()}\nthis run has no picture of its starts")
                return
            show(picture)

        self._work.start(lambda report: model.run.start_picture(), "Starts", done=read, failed=self._failed, bar=False)

    def _show_three(self, picture: QPixmap) -> None:
        self.three.setPixmap(picture)
        self._enable()

    def _open_starts(self) -> None:
        self._read_starts(self._show_window)

    def _show_window(self, picture: QPixmap) -> None:
        self.starts_window = window = QDialog(self)
        window.setWindowTitle("Starts")
        area, label = QScrollArea(), QLabel()
        label.setPixmap(picture)
        area.setWidget(label)
        QVBoxLayout(window).addWidget(area)
        screen = self.screen().availableSize()
        window.resize(min(picture.width() + 60, screen.width() - 40), min(picture.height() + 60, screen.height() - 60))
        window.show()

    def _list_stages(self, snapshot: Snapshot) -> None:
        known = [self.stage.itemData(i) for i in range(1, self.stage.count())]
        if known != list(snapshot.stages):
            self.stage.blockSignals(True)
            shown = self.stage.currentData()
            while self.stage.count() > 1:
                self.stage.removeItem(1)
            for name, blocks in snapshot.stages.items():
                self.stage.addItem(blocks.title, name)
            self.stage.setCurrentIndex(max(0, self.stage.findData(shown)) if shown else 0)
            self.stage.blockSignals(False)
        if self.stage.currentData() is None and snapshot.blocks is not None:
            self.stage.setItemText(0, f"{FOLLOW}: {snapshot.blocks.title}")

    def _choose_stage(self) -> None:
        if self.model is not None:
            self.model.shown = self.stage.currentData()
            self._forget_block()
            self.refresh()

    # ------------------------------------------------------------------------------------------------ the layer

    def _draw(self, snapshot: Snapshot) -> None:
        if snapshot.blocks is None or snapshot.statuses is None or self.model is None:
            return
        layer = layer_of(self.viewer, self.model.url, "blocks")
        statuses = snapshot.statuses
        if layer is not None and layer.metadata["bigreg"]["stage"] == snapshot.stage:
            if not np.array_equal(layer.data, statuses):
                layer.data = statuses
            first = self.layer is None
        else:
            kept = {} if layer is None else {"opacity": layer.opacity, "visible": layer.visible}
            first = layer is None or self.layer is None
            if layer is not None:
                self.viewer.layers.remove(layer)
            made = block_layer(snapshot.blocks, statuses, self.model.url, **kept)
            layer = self.viewer.add_layer(Layer.create(*made))
        if first:
            layer.visible = True
        self.layer = layer

    def _clicked(self, viewer: Any, event: Any) -> Any:
        """A press and release at one place, on a visible block layer."""
        begin = np.asarray(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        if (
            not isalive(self)
            or self.layer is None
            or self.layer not in viewer.layers
            or not self.layer.visible
            or self.snapshot is None
        ):
            return
        if np.abs(np.asarray(event.pos) - begin).max() > 3 or viewer.dims.ndisplay != 2:
            return
        index = self.opened.index_at(event.position[-3:], self.snapshot)
        if index is not None and self.snapshot.stage is not None:
            self.show_block(self.snapshot.stage, index)

    def _go_to_failed(self) -> None:
        failed = self.seen.failed
        shown = self.block[1] if self.block is not None else None
        index = failed[0]
        if shown is not None and shown in failed:
            index = failed[(failed.index(shown) + 1) % len(failed)]
        centre = self.opened.centre_of(index, self.seen)
        self.viewer.dims.set_point(range(3), centre)
        camera_of(self.viewer).center = tuple(centre)
        assert self.seen.stage is not None, "what failed is of a stage"
        self.show_block(self.seen.stage, index)

    # ------------------------------------------------------------------------------------------------ one block

    def show_block(self, stage: str, index: tuple[int, int, int]) -> None:
        """Tell about a block, as a click on it does."""
        self._forget_block()
        self.block = stage, index
        self.title.setText(f"block {index}: reading …")
        self._mark(index)
        model = self.opened

        def look(report: Any) -> tuple:
            report(0, 0, f"block {index}")
            limits = {which: model.run.contrast(which) for which in ("fixed", "moving")}
            return stage, index, model.describe(stage, index), model.patches(stage, index), limits

        self._work.start(look, "Block", done=self._show_block, bar=False)

    def _refresh_block(self, snapshot: Snapshot) -> None:
        """Tell anew about the block that is shown once its status has changed."""
        assert self.block is not None and snapshot.statuses is not None, "asked for only while a block is shown"
        stage, index = self.block
        if self.title.property("status") not in (None, int(snapshot.statuses[index])):
            self.show_block(stage, index)

    def _show_block(self, found: tuple) -> None:
        stage, index, report, patches, self.limits = found
        if self.block != (stage, index):
            return
        status = report.status.name.lower()
        worker = f", by {report.worker}" if report.worker else ""
        self.title.setProperty("status", int(report.status))
        self.title.setText(
            f'<b>block {index}</b>: <span style="color:{STATUS[status]}">■</span> {status}{escape(worker)}'
        )
        rows = [
            f"<tr><td>{name}</td><td align=right>&nbsp;&nbsp;{report.metrics[key]:.3g} {unit}</td></tr>"
            for key, name, unit in FIGURES
            if key in report.metrics
        ]
        self.figures.setText(f"<table>{''.join(rows)}</table>")
        self.figures.setVisible(bool(rows))
        self.error.setPlainText(f"{report.message}\n\n{report.trace}".strip())
        self.error.setVisible(bool(report.message))
        self.patches = patches
        for widget in (self.captions, self.picture, self.plane):
            widget.setVisible(patches is not None)
        if patches is not None:
            self.plane.blockSignals(True)
            self.plane.setRange(0, patches.grid.shape[0] - 1)
            self.plane.setValue(patches.grid.shape[0] // 2)
            self.plane.blockSignals(False)
            self._show_plane()

    def _show_plane(self) -> None:
        if self.patches is None:
            return
        self.picture.setPixmap(pixmap(patch_tiles(self.patches, self.plane.value(), self.limits, side=110)))
        where = "" if self.patches.frame == "fixed" else " (half-way space)"
        self.captions.setText("  |  ".join(TILES) + where)

    def _mark(self, index: tuple[int, int, int]) -> None:
        """A frame around a block in the plane that is shown."""
        axis = int(self.viewer.dims.order[-3])
        point = triple(float(v) for v in self.viewer.dims.point[-3:])
        Drawn(self.viewer, self.opened.url).mark(self.seen.blocks.grid, index, Plane(axis, point[axis], point, 1.0))

    def _unmark(self) -> None:
        if self.model is not None:
            Drawn(self.viewer, self.model.url).remove("block")

    def _forget_block(self) -> None:
        self.block = self.patches = None
        self.title.setText("Click a block for details.")
        self.title.setProperty("status", None)
        for widget in (self.captions, self.picture, self.plane, self.figures, self.error):
            widget.setVisible(False)
        self._unmark()

    # ------------------------------------------------------------------------------------------------ stop and resume

    def _stop(self) -> None:
        model = self.opened
        self.stop.setEnabled(False)

        def asked(holder: dict) -> None:
            self.text.setText(f"process {holder.get('process')} on {holder.get('host')} was asked to stop …")

        self._work.start(lambda report: model.stop(), "Stop the run", done=asked, failed=tell)

    def _resume(self) -> None:
        self.resume.setEnabled(False)
        accepted = self.accept.value() if self.seen.status.start_doubtful else 0
        accept = ["--accept-start", str(accepted)] if accepted else []
        self.process = start_process(["resume", self.opened.url, *accept], log_of(self.opened.url))
        self.text.setText(f"resuming; its output is in {log_of(self.opened.url)}")
        self.timer.setInterval(BUSY_MS)

    def end(self) -> None:
        self.timer.stop()
        self._work.cancel()
        if self._clicked in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._clicked)


def _last_line(log: Any) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no output"
