"""The panel that starts registrations: their plan, a preview of one block, and the start as a process of its own."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QGroupBox,
    QLabel,
    QProgressBar,
    QVBoxLayout,
)

from bigreg.errors import BigregError
from bigreg.quality.evaluation import sign

from ..shared.controls import WRONG, make_button, make_row, make_text, reveal, scrolled
from ..shared.linked_views import centre_of
from ..shared.named import open_beside
from ..shared.open_model import FIXED, MOVING, placed
from ..shared.panel import Panel, Work, move
from ..shared.registration import FieldError, Launch
from ..shared.threads import later
from .form import LaunchForm
from .model import Checked, Started, Stiffness, begin, check, stiffness
from .preview import Preview, levels_of
from .preview_process import PreviewProcess

LOOK_MS = 700
LIVE_MS = 600
PREVIEW = "preview"
LONG = 20
"""Letters of what a row of the plan is about, above which it takes more than a line."""


class LaunchPanel(Panel):
    """A form; what it would cost; how one block would come out; and off it goes."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.started: Started | None = None
        self.previewer = PreviewProcess()
        self.destroyed.connect(partial(_leave, self.previewer))  # with its window, in a Python that goes on
        self.monitor: Any = None
        self._work = Work(self)
        self._checking: Any = None
        self._previewing: Any = None
        self._again = False
        self._looking = False
        self._build()
        self._soon = later(LIVE_MS, self._live)
        self._asked = later(LIVE_MS, self._ask_stiffness)
        self._asked.start()
        self._watch = QTimer(self)
        self._watch.setInterval(LOOK_MS)
        self._watch.timeout.connect(self._look)
        # While one fills in the form; without a word about what fails, as the preview itself will meet it.
        self._warming = self._work.start(self.previewer.warm, "Preview", failed=lambda error: None, bar=False)

    # ------------------------------------------------------------------------------------------------------ controls

    def _build(self) -> None:
        self.form = LaunchForm()
        self.form.changed.connect(self._changed)
        self.plan = make_button("Plan", "Check everything and show the cost; reads no voxel", self.make_plan)
        self.go = make_button("Start", "Start as a separate process: closing napari does not stop it", self.start)
        self.copy = make_button("Copy the command", "For a terminal, or the login node of a cluster", self._copy)
        self.rows = make_text()
        self.level = QComboBox()
        self.level.addItems([f"level {i}" for i in range(4)])
        self.level.setCurrentIndex(1)
        self.level.setToolTip("Resolution of the block: the higher the level, the larger the block")
        self.level.currentIndexChanged.connect(lambda _: self._level_changed())
        self.try_it = make_button("Preview here", "Register the block around the middle of the view", self.make_preview)
        self.cancel = make_button("Cancel", "Cancel the preview", self._cancel)
        self.cancel.setEnabled(False)
        self.live = QCheckBox("live")
        self.live.setToolTip("Repeat after every change of a value")
        self.after = QCheckBox("after")
        self.after.setChecked(True)
        self.after.setToolTip("The moving image after the deformation, or before it")
        self.after.toggled.connect(self._show_after)
        self.stiffness = QDoubleSpinBox()
        self.stiffness.setDecimals(3)
        self.stiffness.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        self.stiffness.setKeyboardTracking(False)
        self.stiffness.setEnabled(False)
        self.stiffness.setToolTip("Regularisation of the last engine that has one: more is smoother")
        self.stiffness.valueChanged.connect(self._stiffen)
        self._stiffness: Stiffness | None = None
        self.bar = QProgressBar()
        self.bar.hide()
        self.figures = make_text()
        self.message = make_text()
        box = QGroupBox("Preview of one block")
        column = QVBoxLayout(box)
        column.addWidget(self.level)
        column.addLayout(make_row(self.try_it, self.cancel, self.live, self.after))
        column.addLayout(make_row(QLabel("stiffness"), self.stiffness))
        column.addWidget(self.bar)
        column.addWidget(self.figures)
        whole = scrolled(self)
        whole.addWidget(self.form)
        whole.addLayout(make_row(self.plan, self.go, self.copy))
        whole.addWidget(self.message)
        whole.addWidget(box)
        whole.addWidget(self.rows)
        whole.addStretch(1)

    def say(self, text: str, wrong: bool = False) -> None:
        self.message.setStyleSheet(WRONG if wrong else "")
        self.message.setText(text)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, FieldError):
            self.form.tell(error)
            if error.place not in self.form.fields:
                self.say(str(error), wrong=True)
            else:
                self.say(f"see {error.place}", wrong=True)
                reveal(self.form.fields[error.place])
            return
        self.say(str(error) if isinstance(error, BigregError) else f"{type(error).__name__}: {error}", wrong=True)

    def _changed(self) -> None:
        self.form.tell(None)
        self.rows.setText("")
        self._asked.start()
        if self.live.isChecked():
            self._soon.start()

    # ---------------------------------------------------------------------------------------------------------- plan

    def make_plan(self) -> None:
        """Check the form and show the plan."""
        launch = self.form.launch
        self._check(lambda report: check(launch, report), "Planning", self._planned)

    def _check(self, work: Any, title: str, done: Any) -> None:
        if self._checking is not None:
            return
        self.form.tell(None)
        self.say(f"{title.lower()} ...")
        for control in (self.plan, self.go):
            control.setEnabled(False)
        self._checking = self._work.start(work, title, done=done, failed=self._failed, ended=self._checked)

    def _checked(self) -> None:
        self._checking = None
        for control in (self.plan, self.go):
            control.setEnabled(True)

    def _planned(self, found: Checked) -> None:
        self._list_levels(levels_of(found.volumes["fixed"]))
        cells = "".join(
            f"<tr><td style='padding-right:10px'><b>{k if len(k) > LONG else k.replace(' ', '&nbsp;')}</b></td>"
            f"<td width='100%'>{v}</td></tr>"
            for k, v in found.rows
        )
        self.rows.setText(f"<table>{cells}</table>")
        row = dict(found.rows)
        ready = "resumes the run that is there" if found.goes_on else "ready to start"
        self.say(f"{ready}: {row['blocks']} blocks, {row['memory per worker']} per worker, {row['time']}")

    def _list_levels(self, levels: list[tuple[float, float, float]]) -> None:
        chosen = self.level.currentIndex()
        self.level.blockSignals(True)
        self.level.clear()
        for number, spacing in enumerate(levels):
            self.level.addItem(f"level {number}: {' x '.join(f'{s:.3g}' for s in spacing)} µm")
        self.level.setCurrentIndex(min(max(chosen, 0), self.level.count() - 1))
        self.level.blockSignals(False)

    def _copy(self) -> None:
        QApplication.clipboard().setText(self.form.launch.text())
        self.say(self.form.launch.text())

    # --------------------------------------------------------------------------------------------------------- start

    def start(self) -> None:
        """Check the form and start the registration."""
        launch = self.form.launch

        def work(report: Any) -> tuple[Checked, Started]:
            return check(launch, report), begin(launch)

        self._check(work, "Starting", self._begun)

    def _begun(self, found: tuple[Checked, Started]) -> None:
        self._planned(found[0])
        self.started = found[1]
        self.say(f"started as process {self.started.process.pid}; its output is in {self.started.log}")
        self._watch.start()

    def _look(self) -> None:
        """Whether the run is there to be watched, or has ended before."""
        started = self.started
        if started is None or self._looking:
            return
        self._looking = True

        def work(report: Any) -> tuple[bool, int | None]:
            return started.works, started.ended

        def ended() -> None:
            self._looking = False

        self._work.start(work, "Waiting for the run", done=self._looked, failed=self._failed, ended=ended, bar=False)

    @property
    def begun(self) -> Started:
        """What was started, for what follows it."""
        assert self.started is not None
        return self.started

    def _looked(self, found: tuple[bool, int | None]) -> None:
        there, ended = found
        if not self._watch.isActive():
            return
        if ended not in (None, 0):
            self._watch.stop()
            self.say(f"it ended with status {ended}:\n{self.begun.tail()}", wrong=True)
        elif there:
            self._watch.stop()
            self._open_monitor()

    def _open_monitor(self) -> None:
        self.monitor = open_beside(self.viewer, "monitor")
        self.monitor.choice.set(self.begun.run)
        self.say(f"process {self.begun.process.pid} works on {self.begun.run}; see Monitor")

    # ------------------------------------------------------------------------------------------------------- preview

    def _level_changed(self) -> None:
        if self.live.isChecked():
            self._soon.start()

    def _live(self) -> None:
        if self.live.isChecked():
            self.make_preview()

    def _ask_stiffness(self) -> None:
        """Whether the engines that are filled in have one; what is wrong with them is said by the preview."""
        launch = self.form.launch
        self._work.start(
            lambda report: (launch, stiffness(launch)), "Stiffness", done=self._stiffness_found,
            failed=lambda error: self._stiffness_found((launch, None)), bar=False,
        )  # fmt: skip

    def _stiffness_found(self, found: tuple[Launch, Stiffness | None]) -> None:
        launch, self._stiffness = found
        if launch != self.form.launch:  # it has changed since, and is asked again
            return
        self.stiffness.setEnabled(self._stiffness is not None)
        if self._stiffness is None:
            return
        step = 10.0 ** -self.stiffness.decimals()
        self.stiffness.blockSignals(True)
        self.stiffness.setRange(max(self._stiffness.low, step), min(self._stiffness.high, 1000.0))
        self.stiffness.setPrefix("auto: " if self._stiffness.auto else "")
        self.stiffness.setValue(self._stiffness.value)
        self.stiffness.blockSignals(False)

    def _stiffen(self, value: float) -> None:
        if self._stiffness is not None:
            self.form.overrides.put(self._stiffness.key, f"{value:g}")

    def make_preview(self) -> None:
        """Register the block around the middle of the view, with what is filled in."""
        if self._previewing is not None:
            # One at a time: the other ends at its next step, and then this one begins.
            self._again = True
            self._previewing.cancel()
            return
        self._again = False
        self._warming.cancel()  # what is not loaded by now, this loads
        launch, level = self.form.launch, self.level.currentIndex()
        seen = [layer for layer in self.viewer.layers if layer.ndim == 3]
        centre = centre_of(self.viewer) if seen else None
        previewer = self.previewer
        self.form.tell(None)
        if self.message.styleSheet():
            self.say("")
        self.cancel.setEnabled(True)
        self.bar.setRange(0, 0)
        self.bar.show()
        # Its bar is here. napari's sign of activity turns without end, and each turn draws the window again: where
        # no GPU does that, it takes as long as the preview.
        self._previewing = self._work.start(
            lambda report: previewer.run(launch, centre, level, report), "Preview", done=self._previewed,
            failed=self._preview_failed, advanced=self._advanced,
            ended=lambda: self._work.in_turns(self._preview_ended), bar=False,
        )  # fmt: skip

    def _advanced(self, done: int, total: int, text: str) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.bar.setFormat(text)

    def _cancel(self) -> None:
        self._again = False
        if self._previewing is not None:
            self._previewing.cancel()
            self.figures.setText("cancelled")
            self.bar.hide()
            self.cancel.setEnabled(False)

    def _preview_failed(self, error: Exception) -> None:
        self.figures.setText("")
        self._failed(error)

    def _preview_ended(self) -> None:
        self._previewing = None
        self.bar.hide()
        self.cancel.setEnabled(False)
        if self._again:
            self.make_preview()

    def _previewed(self, preview: Preview) -> None:
        self._list_levels(preview.levels)
        rows = "".join(
            f"<tr><td style='padding-right:10px'>{name}</td><td>{value:.3f} {sign(unit)}</td></tr>"
            for name, value, unit in preview.figures
        )
        shape = " x ".join(map(str, preview.fixed.shape))
        self.figures.setText(f"<table>{rows}</table>{shape} voxels in {preview.seconds:.1f} s")
        (fixed, moving), grid = preview.limits, preview.grid
        first = not any(layer.name.startswith(PREVIEW) for layer in self.viewer.layers)
        # One layer a turn of the window: napari takes more than a tenth of a second for each.
        self._work.in_turns(
            lambda: self._hide_all() if first else None,
            lambda: self._show("fixed", preview.fixed, grid, FIXED, fixed),
            lambda: self._show("before", preview.before, grid, MOVING, moving),
            lambda: self._show("after", preview.after, grid, MOVING, moving),
            lambda: self._go_to(grid) if first else None,
        )

    def _show(self, name: str, data: np.ndarray, grid: Any, colormap: str, limits: tuple[float, float]) -> None:
        """In the layer of before, with the contrast that it was given where it shows the same block; else a new one."""
        shown = {"before": not self.after.isChecked(), "after": self.after.isChecked()}.get(name, True)
        name, metadata, place = f"{PREVIEW}: {name}", {"grid": grid.affine}, placed(grid)
        if name not in self.viewer.layers:
            self.viewer.add_layer(
                Image(
                    data, name=name, colormap=colormap, contrast_limits=limits, visible=shown, blending="additive",
                    metadata=metadata, **place,
                )
            )  # fmt: skip
            return
        layer = self.viewer.layers[name]
        same = layer.data.shape == data.shape and np.array_equal(layer.metadata["grid"], grid.affine)
        layer.data = data
        if not same:
            move(layer, place)
            layer.metadata, layer.contrast_limits = metadata, limits

    def _hide_all(self) -> None:
        """What would lie under the first preview."""
        for layer in self.viewer.layers:
            layer.visible = False

    def _go_to(self, grid: Any) -> None:
        middle = np.mean(grid.bounds(), axis=0)
        self.viewer.dims.point = (*self.viewer.dims.point[:-3], *middle)

    def _show_after(self, after: bool) -> None:
        for name, shown in (("before", not after), ("after", after)):
            if f"{PREVIEW}: {name}" in self.viewer.layers:
                self.viewer.layers[f"{PREVIEW}: {name}"].visible = shown

    def end(self) -> None:
        self._soon.stop()
        self._asked.stop()
        self._watch.stop()
        self._again = False
        self._work.cancel()
        _leave(self.previewer)


def _leave(previewer: PreviewProcess) -> None:
    """It takes a moment to end, for which the window does not wait."""
    threading.Thread(target=previewer.close, name="bigreg-preview-end", daemon=True).start()
