"""What the Monitor panel shows; what it does is in `panel`."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QSlider,
    QSpinBox,
)

from ..shared.colours import STATUS
from ..shared.controls import Picture, make_text, scrolled
from ..shared.panel import Panel, RunChoice

FOLLOW = "follow the run"
WIDE = 440
"""Pixels, below which the pictures of starts do not tell which is right."""


class MonitorControls(Panel):
    """Every control of the panel, in a scroll area; none of them connected."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.choice = RunChoice(self.viewer)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.text = make_text()
        self.verdict = make_text()
        self.stage = QComboBox()
        self.stage.addItem(FOLLOW, None)
        self.stage.setToolTip("Stage whose blocks are shown")
        self.stage.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.stop = QPushButton("Stop")
        self.stop.setToolTip("Ask the process that works on the run to stop, on any machine; completed blocks are kept")
        self.resume = QPushButton("Resume")
        self.resume.setToolTip("Resume the run in a separate process; closing napari does not stop it")
        self.start = make_text()
        self.starts = QPushButton("Starts…")
        self.starts.setToolTip("The best starts of the global affine, both images overlaid")
        self.three = Picture()
        self.three.setMinimumWidth(WIDE)
        self.three.setToolTip("The best starts, the first at the top: fixed magenta, moving green. Click for a window.")
        self.accept = QSpinBox()
        self.accept.setSpecialValueText("accept no start")
        self.accept.setPrefix("accept start ")
        self.accept.setToolTip("Number of the right start in the picture; Resume uses it")
        self.next_failed = QPushButton("Next failed block")
        legend = "  ".join(f'<span style="color:{c}">■</span> {name}' for name, c in STATUS.items())
        self.legend = QLabel(legend)
        self.title = make_text()
        self.picture = QLabel()
        self.captions = QLabel()
        self.plane = QSlider(Qt.Orientation.Horizontal)
        self.plane.setToolTip("Plane of the block, along z")
        self.figures = make_text()
        self.error = QPlainTextEdit()
        self.error.setReadOnly(True)
        self.error.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        buttons = QGridLayout()
        for place, button in enumerate((self.stop, self.resume, self.next_failed)):
            buttons.addWidget(button, 0, place)
        row = QHBoxLayout()
        row.addWidget(QLabel("blocks of"))
        row.addWidget(self.stage, 1)
        layout = scrolled(self)
        layout.addWidget(self.choice)
        layout.addWidget(self.bar)
        layout.addWidget(self.text)
        layout.addWidget(self.verdict)
        layout.addWidget(self.start)
        chosen = QHBoxLayout()
        chosen.addWidget(self.starts)
        chosen.addWidget(self.accept)
        layout.addLayout(chosen)
        layout.addWidget(self.three)
        layout.addLayout(row)
        layout.addWidget(self.legend)
        layout.addLayout(buttons)
        for widget in (self.title, self.captions, self.picture, self.plane, self.figures, self.error):
            layout.addWidget(widget)
        layout.addStretch(1)
