"""Small Qt parts of the forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEvent, QSize, Qt, Signal
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

WRONG = "color: #ff7b6b"


class Scrolled(QScrollArea):
    """Scrolls what a panel holds up and down; never narrower than that, so that nothing is cut at the side."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setWidgetResizable(True)
        self.setWidget(inside)

    def minimumSizeHint(self) -> QSize:
        wanted, bar = super().minimumSizeHint(), self.verticalScrollBar()
        inside = self.widget()
        if inside is not None and bar is not None:
            taken = self.width() - self.viewport().width()  # by the bar as it is drawn, once there is one
            wanted.setWidth(inside.minimumSizeHint().width() + max(bar.sizeHint().width(), taken))
        return wanted

    def eventFilter(self, watched: Any, event: Any) -> bool:
        # What is inside may need another width now, or have less of it.
        if event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Resize):
            self.updateGeometry()
        return super().eventFilter(watched, event)


def scrolled(panel: QWidget) -> QVBoxLayout:
    """The layout of all that a panel holds, in a scroll area that fills the panel."""
    inside, whole = QWidget(), QVBoxLayout(panel)
    layout = QVBoxLayout(inside)
    whole.setContentsMargins(0, 0, 0, 0)
    whole.addWidget(Scrolled(inside))
    return layout


class Picture(QLabel):
    """A picture as wide as its place; `clicked` by who wants more of it."""

    clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setScaledContents(True)
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def heightForWidth(self, width: int) -> int:
        size = self.pixmap().size()
        return round(width * size.height() / size.width()) if size.width() else 0

    def minimumSizeHint(self) -> QSize:
        return QSize(1, self.heightForWidth(self.width()))

    def sizeHint(self) -> QSize:
        return self.minimumSizeHint()

    def mouseReleaseEvent(self, event: Any) -> None:
        self.clicked.emit()
        super().mouseReleaseEvent(event)


def reveal(widget: QWidget) -> None:
    """Scroll a widget of a panel into sight."""
    area: Any = widget.parent()
    while area is not None and not isinstance(area, QScrollArea):
        area = area.parent()
    if area is not None:
        area.ensureWidgetVisible(widget)


def make_button(text: str, tip: str, call: Callable[[], Any]) -> QPushButton:
    made = QPushButton(text)
    made.setToolTip(tip)
    made.clicked.connect(lambda checked=False: call())
    return made


def make_row(*widgets: QWidget) -> QHBoxLayout:
    made = QHBoxLayout()
    for widget in widgets:
        made.addWidget(widget)
    return made


def make_text() -> QLabel:
    """What is told: in several lines, and to be copied."""
    label = QLabel()
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def make_line(hint: str, tip: str = "") -> QLineEdit:
    made = QLineEdit()
    made.setPlaceholderText(hint)
    made.setToolTip(tip)
    return made


def make_number(what: str) -> QSpinBox:
    """-1 says nothing."""
    box = QSpinBox()
    box.setRange(-1, 99999)
    box.setValue(-1)
    box.setSpecialValueText(what.partition(",")[0])
    box.setToolTip(what)
    return box
