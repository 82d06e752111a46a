"""Small Qt parts of the forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QPushButton, QSpinBox, QWidget

WRONG = "color: #ff7b6b"


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
