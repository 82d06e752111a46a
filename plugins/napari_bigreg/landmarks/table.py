"""The table of pairs: what is used, names, errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from .layers import UNUSED
from .model import Errors, Pair

USE, NAME, BEFORE, AFTER = range(4)
HEADER = ("use", "name", "affine, µm", "deformation, µm")


class PairTable(QTableWidget):
    """A row a pair, in their order."""

    def __init__(self) -> None:
        super().__init__(0, len(HEADER))
        self.setHorizontalHeaderLabels(HEADER)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)

    @property
    def chosen(self) -> list[int]:
        """The chosen rows, in order."""
        return sorted({index.row() for index in self.selectedIndexes()})

    def choose(self, rows: Sequence[int]) -> None:
        """Choose these rows and no others."""
        self.clearSelection()
        for row in rows:
            for column in range(self.columnCount()):
                self._cell(row, column).setSelected(True)

    def fill(self, pairs: Sequence[Pair]) -> None:
        """Show these pairs and no others; errors stay until `measure`."""
        self.setRowCount(len(pairs))
        for row, pair in enumerate(pairs):
            if self.item(row, USE) is None:
                for column, item in enumerate((_tick(), QTableWidgetItem(), _number(), _number())):
                    self.setItem(row, column, item)
            self._cell(row, USE).setCheckState(Qt.CheckState.Checked if pair.active else Qt.CheckState.Unchecked)
            self._cell(row, NAME).setText(pair.name)

    def measure(self, pairs: Sequence[Pair], errors: Errors) -> None:
        """Show the errors (um) of the pairs that fill the table."""
        for row, pair in enumerate(pairs):
            for column, value in ((BEFORE, errors.affine[row]), (AFTER, errors.mapped[row])):
                item = self._cell(row, column)
                item.setText("proposed" if pair.lacks and column == AFTER else _text(value))
                item.setForeground(QColor(UNUSED) if pair.lacks or not pair.active else self.palette().text())

    def _cell(self, row: int, column: int) -> QTableWidgetItem:
        item = self.item(row, column)
        assert item is not None, "every row has all its cells"
        return item


def _tick() -> QTableWidgetItem:
    item = QTableWidgetItem()
    item.setFlags(Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
    return item


def _number() -> QTableWidgetItem:
    item = QTableWidgetItem()
    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
    return item


def _text(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"
