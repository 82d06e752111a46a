"""The panel of landmarks: the moving image beside the fixed one, and the table of pairs."""

from __future__ import annotations

from typing import Any

from napari.layers import Layer
from napari.qt import QtViewer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QFileDialog,
    QLabel,
    QSplitter,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from bigreg.errors import BigregError

from ..shared.controls import WRONG, make_button, make_row, make_text, scrolled
from ..shared.linked_views import LinkedViews
from ..shared.named import open_beside, panel_class
from ..shared.open_model import RunView
from ..shared.panel import Panel, RunChoice, Work, adding, runs_of
from ..shared.registration import SIDES, Launch
from ..shared.threads import later
from .ellipses import EllipseLayers
from .layers import PairLayers
from .model import Errors, Expected, LandmarksModel, Pair
from .table import NAME, USE, PairTable


class LandmarksPanel(Panel):
    """Places, moves, snaps, names, measures and keeps pairs of landmarks."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.model: LandmarksModel | None = None
        self.views: LinkedViews | None = None
        self.layers: PairLayers | None = None
        self.outlines: EllipseLayers | None = None
        self.canvas: QtViewer | None = None
        self.launch: Any = None
        self._work = Work(self)
        self._measuring = False
        self._measure_again = False
        self._measure = later(60, self._start_measuring)
        self._filling = False
        self._build()
        if self.choice.url:
            self.open(self.choice.url)

    # ------------------------------------------------------------------------------------------------------ controls

    @property
    def opened(self) -> LandmarksModel:
        """The model, for what can be done only while there is a run."""
        assert self.model is not None
        return self.model

    @property
    def linked(self) -> LinkedViews:
        """The views, for what can be done only while there is a run."""
        assert self.views is not None
        return self.views

    @property
    def shown(self) -> PairLayers:
        """The layers of pairs, for what can be done only while there is a run."""
        assert self.layers is not None
        return self.layers

    @property
    def sure(self) -> EllipseLayers:
        """The layers of ellipses, for what can be done only while there is a run."""
        assert self.outlines is not None
        return self.outlines

    def _build(self) -> None:
        self.choice = RunChoice(self.viewer)
        self.choice.chosen.connect(self.open)
        self.link = QCheckBox("Link the views")
        self.link.setChecked(True)
        self.link.setToolTip("Each view follows the other through the current map")
        self.link.toggled.connect(self._link)
        self.ellipses = QCheckBox("95 % ellipses")
        self.ellipses.setChecked(True)
        self.ellipses.toggled.connect(self._show_ellipses)
        self.add = make_button(
            "Add pairs", "Click in either view; the map proposes the other point", self._toggle_adding
        )
        self.add.setCheckable(True)
        self.within = QDoubleSpinBox()
        self.within.setRange(0.1, 10000)
        self.within.setValue(15)
        self.within.setSuffix(" µm")
        self.within.setToolTip("How far around the moving point is searched")
        self.snap = make_button(
            "Snap", "Move the moving points of the chosen rows to where the images agree", self._snap
        )
        self.accept = make_button("Accept", "Take the proposed points of the chosen rows as they are", self._accept)
        self.remove = make_button("Remove", "Remove the chosen rows", self._remove)
        self.load = make_button("Import...", "Add the pairs of a BigWarp CSV", self._import)
        self.export = make_button("Export...", "Write a BigWarp CSV", self._export)
        self.save = make_button(
            "Save in the run", "Keep the pairs in the run: they steer and judge registrations", self._save
        )
        self.steer = make_button("Steer a run...", "Register the images again, guided by these pairs", self._steer)
        self.table = PairTable()
        self.table.itemChanged.connect(self._edited)
        self.table.itemSelectionChanged.connect(self._chosen)
        self.table.cellDoubleClicked.connect(lambda row, column: self._go_to(row))
        self.figures = QLabel()
        self.message = make_text()

        self.place = QWidget()
        self.place.setMinimumHeight(260)
        self._place_layout = QVBoxLayout(self.place)
        self._place_layout.setContentsMargins(0, 0, 0, 0)
        below = QWidget()
        column = QVBoxLayout(below)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(make_row(self.add, self.snap, QLabel("within"), self.within, self.accept, self.remove))
        column.addWidget(self.table)
        column.addWidget(self.figures)
        column.addLayout(make_row(self.load, self.export, self.save, self.steer))
        column.addWidget(self.message)
        split = QSplitter(Qt.Orientation.Vertical)
        split.addWidget(self.place)
        split.addWidget(below)
        split.setStretchFactor(0, 3)
        split.setStretchFactor(1, 2)
        split.setSizes([600, 400])
        whole = scrolled(self)
        whole.addLayout(make_row(self.choice, self.link, self.ellipses))
        whole.addWidget(split)
        self._enable()

    def _enable(self) -> None:
        controls = (
            self.add, self.snap, self.accept, self.remove, self.load, self.export, self.save, self.steer, self.link,
        )  # fmt: skip
        for control in controls:
            control.setEnabled(self.model is not None)
        why = "" if self.model is None else self.model.no_sigma
        self.ellipses.setEnabled(self.model is not None and not why)
        self.ellipses.setToolTip(why or "Where the map puts the other point, and how sure it is (sigma)")

    def say(self, text: str, wrong: bool = False) -> None:
        """Show what happened, or what went wrong, below the table."""
        self.message.setStyleSheet(WRONG if wrong else "")
        self.message.setText(text)

    def _failed(self, error: Exception) -> None:
        self.say(str(error) if isinstance(error, BigregError) else f"{type(error).__name__}: {error}", wrong=True)

    def _start(self, work: Any, title: str, done: Any, **more: Any) -> Any:
        return self._work.start(work, title, done=done, failed=self._failed, **more)

    # ---------------------------------------------------------------------------------------------------------- open

    def open(self, url: str) -> None:
        """Open a run, in a thread."""
        self.say(f"opening {url} ...")
        shown = runs_of(self.viewer)

        def work(report: Any) -> tuple:
            problems: list[str] = []
            view = RunView(url, problems.append)
            model = LandmarksModel(view.run)
            return model, [] if view.url in shown else view.layers(), view.own_moving(), problems

        self._start(work, "Opening the run", self._opened)

    def _opened(self, found: tuple) -> None:
        model, layers, moving, problems = found
        self._work.in_turns(
            self._forget,
            *adding(self.viewer, layers),
            lambda: self._add_view(model, moving),
            lambda: self._add_pairs(model),
            lambda: self._begin(model, problems),
        )

    def _add_view(self, model: LandmarksModel, moving: Any) -> None:
        self.views = LinkedViews(self.viewer, model.partner)
        self.views.other.add_layer(Layer.create(*moving))
        self.canvas = QtViewer(self.views.other)
        self._place_layout.addWidget(self.canvas)

    def _add_pairs(self, model: LandmarksModel) -> None:
        self.layers = PairLayers(model, self.linked.views, placed=self._placed, chosen=self._chosen_in_view)
        self.outlines = EllipseLayers(model, self.linked.views, self.layers.units)
        self.outlines.enable(self.ellipses.isChecked())

    def _begin(self, model: LandmarksModel, problems: list[str]) -> None:
        self.model = model
        model.changed.connect(self._refresh)
        self._enable()
        self.link.setChecked(True)
        self.linked.enable(True)
        self._refresh()
        self.say("; ".join(problems) or model.missing or f"{model.run.url}: {len(model.pairs)} pairs", bool(problems))

    def _forget(self) -> None:
        self.add.setChecked(False)
        if self.model is not None:
            self.model.changed.disconnect(self._refresh)
        if self.layers is not None:
            self.layers.close()
        if self.outlines is not None:
            self.outlines.close()
        if self.views is not None:
            self.views.close()
        if self.canvas is not None:
            self._place_layout.removeWidget(self.canvas)
            self.canvas.close()
            self.canvas = None
        self.model = self.layers = self.outlines = self.views = None

    def end(self) -> None:
        self._work.cancel()
        self._measure.stop()
        self._forget()

    # --------------------------------------------------------------------------------------------------------- pairs

    @property
    def chosen(self) -> list[Pair]:
        """The pairs of the chosen rows."""
        if self.model is None:
            return []
        return [self.model.pairs[row] for row in self.table.chosen if row < len(self.model.pairs)]

    def _link(self, on: bool) -> None:
        if self.views is not None:
            self.views.enable(on)

    def _show_ellipses(self, on: bool) -> None:
        if self.outlines is not None:
            self.outlines.enable(on)

    def _toggle_adding(self) -> None:
        if self.layers is not None:
            self.layers.adding(self.add.isChecked())

    def _placed(self, pair: Pair) -> None:
        """A point was set by hand: the map proposes the one that is missing."""
        side = "moving" if pair.lacks == "fixed" else "fixed"
        if pair.lacks is None:
            return
        model, point = self.opened, pair.at(side).copy()
        self._start(
            lambda report: model.partner(side, point), "Through the map",
            lambda there: model.propose(pair, there), bar=False,
        )  # fmt: skip

    def _snap(self) -> None:
        pairs, within = self.chosen, self.within.value()
        if not pairs:
            self.say("choose the rows to snap", wrong=True)
            return
        model = self.opened

        def work(report: Any) -> list:
            found: list[Any] = []
            for number, pair in enumerate(pairs):
                report(number, len(pairs), pair.name)
                try:
                    found.append((pair, model.snapped(pair, within)))
                except BigregError as error:
                    found.append((pair, error))
            return found

        self.snap.setEnabled(False)
        self._start(work, "Snapping", self._snapped, ended=lambda: self.snap.setEnabled(self.model is not None))

    def _snapped(self, found: list) -> None:
        told, wrong = [], False
        for pair, result in found:
            if isinstance(result, BigregError):
                told.append(f"{pair.name}: {result}")
                wrong = True
            else:
                self.opened.place(pair, "moving", result.point)
                better = f"correlation {result.before:.2f} to {result.correlation:.2f}"
                told.append(f"{pair.name}: moved {result.shift:.1f} µm, {better}")
        self.say("\n".join(told), wrong)

    def _accept(self) -> None:
        self.opened.accept(self.chosen)

    def _remove(self) -> None:
        self.opened.remove(self.chosen)

    def _go_to(self, row: int) -> None:
        pair = self.opened.pairs[row]
        points = {side: point for side in SIDES if (point := pair.shown(side)) is not None}
        self.linked.show(points)

    def _chosen(self) -> None:
        if not self._filling and self.layers is not None:
            self.layers.choose(self.chosen)

    def _chosen_in_view(self, pairs: list[Pair]) -> None:
        rows = [row for row, pair in enumerate(self.opened.pairs) if any(pair is p for p in pairs)]
        self._filling = True
        self.table.choose(rows)
        self._filling = False

    # --------------------------------------------------------------------------------------------------------- table

    def _refresh(self) -> None:
        """Show the pairs as they are now; their errors follow from a thread."""
        chosen = self.chosen if self.table.rowCount() == len(self.opened.pairs) else []
        self._filling = True
        self.table.fill(self.opened.pairs)
        self._filling = False
        self._chosen_in_view(chosen)
        self.shown.refresh()
        self.save.setText("Save in the run" + ("" if self.opened.saved else " *"))
        self._measure.start()

    def _edited(self, item: QTableWidgetItem) -> None:
        if self._filling or self.model is None:
            return
        pair = self.model.pairs[item.row()]
        if item.column() == USE:
            self.model.activate(pair, item.checkState() == Qt.CheckState.Checked)
        elif item.column() == NAME:
            try:
                self.model.rename(pair, item.text())
                self.say("")
            except BigregError as error:
                self._failed(error)
                self._refresh()

    def _start_measuring(self) -> None:
        if self._measuring:
            self._measure_again = True
            return
        if self.model is None:
            return
        self._measuring = True
        model, pairs = self.model, self.model.landmarks

        def work(report: Any) -> tuple[Errors, dict[str, Expected]]:
            return model.errors(pairs), model.expected(pairs)

        self._start(work, "TRE", self._measured, bar=False, ended=self._measuring_ended)

    def _measuring_ended(self) -> None:
        self._measuring = False
        if self._measure_again:
            self._measure_again = False
            self._measure.start()

    def _measured(self, found: tuple[Errors, dict[str, Expected]]) -> None:
        errors, expected = found
        if self.model is None or len(errors.affine) != len(self.model.pairs):
            return
        self._filling = True
        self.table.measure(self.model.pairs, errors)
        self._filling = False
        self.figures.setText(errors.text())
        self.sure.show(expected)

    # --------------------------------------------------------------------------------------------------------- files

    def _import(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Import landmarks", "", "Landmarks (*.csv)")
        if path:
            self._do(lambda: f"{self.opened.load(path)} pairs from {path}")

    def _export(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Export landmarks", "landmarks.csv", "BigWarp landmarks (*.csv)")
        if path:
            self._do(lambda: self._exported(path))

    def _exported(self, path: str) -> str:
        self.opened.export(path)
        return f"written to {path}"

    def _do(self, action: Any) -> None:
        try:
            self.say(action())
        except BigregError as error:
            self._failed(error)

    def _save(self) -> None:
        model = self.opened
        self._start(lambda report: model.save(), "Saving landmarks", self._saved)

    def _saved(self, path: str) -> None:
        self.save.setText("Save in the run")
        self.say(f"kept in {path}")

    def _steer(self) -> None:
        model = self.opened

        def work(report: Any) -> Launch:
            panel_class("launch")  # what it imports takes seconds, which the window must not wait for
            return model.steered()

        self._start(work, "Saving landmarks", self._launch)

    def _launch(self, launch: Launch) -> None:
        """The panel that starts runs, filled in: the plan is looked at, and a person says go."""
        self.save.setText("Save in the run")
        self.launch = open_beside(self.viewer, "launch")
        self.launch.form.fill(launch)
        self.say("see Launch")
