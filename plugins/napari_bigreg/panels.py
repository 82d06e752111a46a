"""The panels as napari's menu opens them: at once, with what they need on its way."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QProgressBar, QVBoxLayout, QWidget

from .shared.controls import WRONG
from .shared.named import panel_class
from .shared.panel import Panel, Work


class Coming(Panel):
    """Stands in for a panel until its class is imported, in a thread; then holds it, as `panel`."""

    name: str

    def __init__(self, napari_viewer: Any) -> None:  # napari gives its viewer by this name
        super().__init__()
        self.viewer = napari_viewer
        self.panel: QWidget | None = None
        self.text = QLabel(f"loading {self.name} …")
        self.text.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setRange(0, 0)
        self._whole = QVBoxLayout(self)
        self._whole.setContentsMargins(0, 0, 0, 0)
        for widget in (self.text, self.bar):
            self._whole.addWidget(widget, alignment=Qt.AlignmentFlag.AlignTop)
        self._whole.addStretch(1)
        self._work = Work(self)
        self._work.start(
            lambda report: panel_class(self.name),
            f"Loading {self.name}",
            done=self._come,
            failed=self._failed,
            bar=False,
        )

    def _come(self, panel: type[QWidget]) -> None:
        while self._whole.count():
            item = self._whole.takeAt(0)
            widget = None if item is None else item.widget()
            if widget is not None:
                widget.deleteLater()
        self.panel = panel(self.viewer)
        self._whole.addWidget(self.panel)

    def _failed(self, error: Exception) -> None:
        self.bar.hide()
        self.text.setStyleSheet(WRONG)
        self.text.setText(f"{type(error).__name__}: {error}")

    def end(self) -> None:
        self._work.cancel()
        if self.panel is not None:
            self.panel.close()


class Monitor(Coming):
    name = "monitor"


class Inspect(Coming):
    name = "inspect"


class Landmarks(Coming):
    name = "landmarks"


class Launch(Coming):
    name = "launch"
