"""What the Inspect panel shows; what it does is in `panel`."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QWidget,
)

from ..shared.colours import FOLD
from ..shared.controls import make_text, scrolled
from ..shared.panel import Panel, RunChoice
from .model import OVERLAYS


class InspectControls(Panel):
    """Every control of the panel, in a scroll area; none of them connected."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.choice = RunChoice(self.viewer)
        self.text = make_text()
        self.text.setText("Choose a run.")
        self.verdict = make_text()
        self.verdict.setVisible(False)
        self.mode = QComboBox()
        self.mode.addItems(OVERLAYS)
        self.before = QCheckBox("before the deformation (affine only)")
        self.tile = QDoubleSpinBox()
        self.tile.setRange(1, 100_000)
        self.tile.setSuffix(" µm")
        self.curtain = QSlider(Qt.Orientation.Horizontal)
        self.curtain.setRange(0, 100)
        self.curtain.setValue(50)
        compare = QGroupBox("Compare fixed (magenta) and moving (green)")
        form = QFormLayout(compare)
        form.addRow("overlay", self.mode)
        form.addRow("", self.before)
        form.addRow("tile", self.tile)
        form.addRow("curtain", self.curtain)

        self.arrows, self.grid = QCheckBox("arrows"), QCheckBox("deformed grid")
        self.jacobian, self.folds = QCheckBox("Jacobian determinant"), QCheckBox("folds")
        self.risk = QCheckBox("risk of an error above 2 voxels")
        self.density = QSpinBox()
        self.density.setRange(4, 200)
        self.density.setValue(32)
        self.density.setToolTip("Arrows, or lines of the grid, along the longer edge of the view")
        self.longer = QDoubleSpinBox()
        self.longer.setRange(0.1, 1000)
        self.longer.setValue(1)
        self.longer.setPrefix("x ")
        self.longer.setToolTip("Magnification of the drawn displacements")
        self.jacobian.setToolTip("Volume ratio: blue shrinks, red grows, yellow folds")
        self.risk.setToolTip("Where not to trust the map: red is most likely wrong; estimated without ground truth")
        self.folds.setToolTip(f'<span style="color:{FOLD}">■</span> every place where the map is not invertible')
        self.map = QComboBox()
        deformation = QGroupBox("Deformation")
        form = QFormLayout(deformation)
        form.addRow(_row(self.arrows, self.grid))
        form.addRow(_row(QLabel("density"), self.density, QLabel("length"), self.longer))
        form.addRow(_row(self.jacobian, self.folds))
        form.addRow(self.risk)
        form.addRow("map of blocks", self.map)

        self.rank = QComboBox()
        self.previous, self.next = QPushButton("◀ Back"), QPushButton("Next worst ▶")
        self.where = make_text()
        worst = QGroupBox("Go to the worst blocks, in order")
        form = QFormLayout(worst)
        form.addRow("by", self.rank)
        form.addRow(_row(self.previous, self.next))
        form.addRow(self.where)

        self.solid = QCheckBox("3-D")
        self.screenshot, self.figure = QPushButton("Screenshot…"), QPushButton("Figure…")
        self.screenshot.setToolTip("The canvas as PNG")
        self.figure.setToolTip("This slice before and after, with correlation and scale bar: PNG, PDF or SVG")

        layout = scrolled(self)
        for widget in (self.choice, self.text, self.verdict, compare, deformation, worst):
            layout.addWidget(widget)
        layout.addWidget(_row(self.solid, self.screenshot, self.figure))
        layout.addStretch(1)
        for choice in (self.mode, self.map, self.rank):
            choice.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)


def _row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return row
