"""What the panels share: the choice of a run, work in threads that a closed panel forgets, pictures in Qt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

import numpy as np
from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, Signal
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QPushButton, QSizePolicy, QWidget

from . import threads
from .colours import VERDICT
from .open_model import LayerData


def pixmap(picture: np.ndarray) -> QPixmap:
    """uint8 (rows, columns, 3) as Qt shows it."""
    picture = np.ascontiguousarray(picture)
    rows, columns, _ = picture.shape
    # Qt does not keep the array, so the image is copied before it goes.
    return QPixmap.fromImage(QImage(picture.data, columns, rows, 3 * columns, QImage.Format.Format_RGB888).copy())


def verdict_text(verdict: Any | None) -> str:
    """The headline of a verdict and its reasons as rich text; nothing where there is none yet."""
    if verdict is None:
        return ""
    mark = f'<span style="color:{VERDICT[verdict.level]}">■</span> <b>{escape(verdict.headline)}</b>'
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    figures = f"<br>before → affine → all: {escape(verdict.similarity)}" if verdict.similarity else ""
    return f"{mark}{figures}<ul style='margin-left:-20px'>{reasons}</ul>" if reasons else mark + figures


class Panel(QWidget):
    """What a dock of napari holds. It ends once, when it is closed or its dock is: of that napari does not tell it."""

    ended = False

    def end(self) -> None:
        """Stop what goes on and let go of the viewer."""

    def event(self, event: Any) -> bool:
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.close()
        return super().event(event)

    def closeEvent(self, event: Any) -> None:
        if not self.ended:
            self.ended = True
            self.end()
        super().closeEvent(event)


class Work:
    """Jobs of one panel; what comes back after the panel has ended is dropped."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._jobs: set[threads.Job] = set()

    def start(self, work: Callable[[threads.Report], Any], title: str, **calls: Any) -> threads.Job:
        """See `threads.start`."""
        kept: dict[str, Any] = {name: self._guarded(call) if callable(call) else call for name, call in calls.items()}
        ended = kept.pop("ended", None)

        def end() -> None:
            self._jobs.discard(job)
            if ended is not None:
                ended()

        job = threads.start(work, title, ended=end, **kept)
        self._jobs.add(job)
        return job

    def in_turns(self, *calls: Callable[[], Any]) -> None:
        """See `threads.in_turns`."""
        threads.in_turns(*map(self._guarded, calls))

    def cancel(self) -> None:
        for job in list(self._jobs):
            job.cancel()

    def _guarded(self, call: Callable) -> Callable:
        def guarded(*arguments: Any) -> None:
            if isalive(self._panel) and not self._panel.ended:
                call(*arguments)

        return guarded


class RunChoice(QWidget):
    """A run: one of those whose layers are open, or one that is typed, pasted or looked for."""

    chosen = Signal(str)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self.box = QComboBox()
        self.box.setEditable(True)
        self.box.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        line = self.box.lineEdit()
        assert line is not None, "an editable box has one"
        line.setPlaceholderText("run.zarr: path or URL")
        self.box.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.box.setToolTip("The run store; those that are open in this window are in the list")
        self.browse = QPushButton("…")
        self.browse.setMaximumWidth(30)
        self.browse.setToolTip("Look for a run on this machine")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box, 1)
        layout.addWidget(self.browse)
        self.box.activated.connect(lambda _: self._choose())
        line.editingFinished.connect(self._choose)
        self.browse.clicked.connect(self._look)
        self._last = ""
        viewer.layers.events.inserted.connect(self._renew)
        self._renew()

    @property
    def url(self) -> str:
        return self.box.currentText().strip()

    def set(self, url: str) -> None:
        """Choose a run, as if it had been typed."""
        self.box.setEditText(url)
        self._choose()

    def _choose(self) -> None:
        if self.url and self.url != self._last:
            self._last = self.url
            self.chosen.emit(self.url)

    def _look(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open a run")
        if folder:
            self.set(folder)

    def _renew(self, event: Any = None) -> None:
        if not isalive(self):
            return
        text = self.box.currentText()
        self.box.blockSignals(True)
        self.box.clear()
        self.box.addItems(runs_of(self._viewer))
        self.box.setEditText(text or (self.box.itemText(0) if self.box.count() else ""))
        self.box.blockSignals(False)


def camera_of(viewer: Any) -> Any:
    """The camera; napari 0.9 has moved it."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def runs_of(viewer: Any) -> list[str]:
    """The runs whose layers a viewer shows, the newest first."""
    urls = [layer.metadata.get("bigreg", {}).get("run") for layer in viewer.layers]  # None: an image, somebody else's
    return list(dict.fromkeys(url for url in reversed(urls) if url is not None))


def adding(viewer: Any, layers: list[LayerData]) -> list[Callable[[], Any]]:
    """Calls that put layers into a viewer, one each: one alone takes napari more than a tenth of a second."""

    def add(layer: LayerData) -> None:
        first = not len(viewer.layers)
        viewer.add_layer(Layer.create(*layer))
        if first:
            viewer.reset_view()

    return [partial(add, layer) for layer in layers]


def layer_of(viewer: Any, url: str, what: str) -> Any | None:
    """The layer of a run that shows `what`: fixed, moving, warped, jacobian, displacement, blocks."""
    for layer in viewer.layers:
        known = layer.metadata.get("bigreg", {})
        if known.get("run") == url and known.get("what") == what:
            return layer
    return None


def move(layer: Any, place: dict[str, Any]) -> None:
    """Put a layer where `open_model.placed` says; what is there already is left, as each change draws it anew."""
    anywhere = {"scale": np.ones(3), "translate": np.zeros(3), "affine": np.eye(4)}
    for key, default in anywhere.items():
        wanted = place.get(key, default)
        if not np.array_equal(np.asarray(getattr(layer, key)), wanted):
            setattr(layer, key, wanted)
