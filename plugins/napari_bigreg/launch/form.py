"""The fields of a registration that is to be started, each with a place for what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QCompleter,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from ..shared.controls import WRONG, make_button, make_line, make_number
from ..shared.registration import SIDES, Choice, FieldError, Launch, clusters, keys, presets


class Field(QWidget):
    """Some controls in a row, and under them what is wrong."""

    def __init__(self, *controls: QWidget) -> None:
        super().__init__()
        self.error = QLabel()
        self.error.setWordWrap(True)
        self.error.setStyleSheet(WRONG)
        self.error.hide()
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        for number, control in enumerate(controls):
            row.addWidget(control, 1 if number == 0 else 0)
        self.column = column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(row)
        column.addWidget(self.error)

    def tell(self, text: str) -> None:
        self.error.setText(text)
        self.error.setVisible(bool(text))


class ImageField(Field):
    """Path or URL of an image, its channel, and what its file does not say."""

    changed = Signal()

    def __init__(self, side: str) -> None:
        self.path = make_line(f"{side}: path or URL")
        self.browse = _browse(self.path, f"Choose {side}")
        super().__init__(self.path, self.browse)
        self.channel, self.time = make_number("channel, from 0"), make_number("time point, from 0")
        self.texts = {
            "dataset": make_line("dataset", "Path inside a container (N5, Zarr, HDF5) that holds more than one image"),
            "orientation": make_line(
                "orientation", "Anatomical origin of z, y, x, e.g. psl = posterior, superior, left"
            ),
            "spacing": make_line("spacing z y x", "Voxel size, µm, if the file states none or a wrong one"),
            "origin": make_line("origin z y x", "Position of the first voxel's centre (z y x, µm)"),
        }
        more = QGridLayout()
        more.setContentsMargins(0, 0, 0, 0)
        widgets = (self.channel, self.texts["dataset"], self.texts["spacing"], self.time, self.texts["orientation"],
                   self.texts["origin"])  # fmt: skip
        for place, widget in enumerate(widgets):
            more.addWidget(widget, *divmod(place, 3))
        self.column.insertLayout(1, more)
        for line in (self.path, *self.texts.values()):
            line.textChanged.connect(lambda _: self.changed.emit())
        for number in (self.channel, self.time):
            number.valueChanged.connect(lambda _: self.changed.emit())

    @property
    def choice(self) -> Choice:
        channel, time = (None if n.value() < 0 else n.value() for n in (self.channel, self.time))
        texts = {name: line.text().strip() for name, line in self.texts.items()}
        return Choice(self.path.text().strip(), channel=channel, time=time, **texts)

    def fill(self, choice: Choice) -> None:
        self.path.setText(choice.path)
        for number, value in ((self.channel, choice.channel), (self.time, choice.time)):
            number.setValue(-1 if value is None else value)
        for name, line in self.texts.items():
            line.setText(getattr(choice, name))


class Overrides(Field):
    """Rows of KEY and VALUE that change the configuration."""

    changed = Signal()

    def __init__(self) -> None:
        self.add = QPushButton("Add a value")
        self.add.setToolTip("Change one value of the configuration, such as blocks.core")
        super().__init__(self.add)
        self.rows: list[tuple[QWidget, QComboBox, QLineEdit]] = []
        self._keys = keys()
        self.add.clicked.connect(lambda checked=False: self.append())

    def append(self, key: str = "", value: str = "") -> None:
        """One more row."""
        box = QComboBox()
        box.setEditable(True)
        box.addItems(["", *self._keys])
        completer = box.completer()
        assert completer is not None, "an editable box has one"
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        completer.setCompletionMode(QCompleter.CompletionMode.PopupCompletion)
        box.setCurrentText(key)
        line = make_line("value")
        line.setText(value)
        gone = QPushButton("x")
        gone.setMaximumWidth(26)
        gone.setToolTip("Keep the value of the configuration")
        holder = QWidget()
        row = QHBoxLayout(holder)
        row.setContentsMargins(0, 0, 0, 0)
        for widget, stretch in ((box, 3), (line, 2), (gone, 0)):
            row.addWidget(widget, stretch)
        self.column.insertWidget(len(self.rows), holder)
        entry = holder, box, line
        self.rows.append(entry)
        gone.clicked.connect(lambda checked=False: self._remove(entry))
        box.currentTextChanged.connect(lambda _: self.changed.emit())
        line.textChanged.connect(lambda _: self.changed.emit())

    def put(self, key: str, value: str) -> None:
        """Change the last row of a key, or add one."""
        for _, box, line in reversed(self.rows):
            if box.currentText().strip() == key:
                line.setText(value)
                return
        self.append(key, value)
        self.changed.emit()

    def fill(self, items: tuple[str, ...]) -> None:
        """These rows and no others."""
        for entry in list(self.rows):
            self._remove(entry)
        for item in items:
            key, _, value = item.partition("=")
            self.append(key, value)

    def _remove(self, entry: tuple) -> None:
        self.rows.remove(entry)
        self.column.removeWidget(entry[0])
        entry[0].deleteLater()
        self.changed.emit()

    @property
    def items(self) -> tuple[str, ...]:
        """KEY=VALUE of the rows that have a key."""
        return tuple(f"{b.currentText().strip()}={v.text().strip()}" for _, b, v in self._used())

    def _used(self) -> list[tuple]:
        return [row for row in self.rows if row[1].currentText().strip()]

    def mark(self, number: int | None) -> None:
        """Show which of the items is wrong."""
        for index, (_, _, line) in enumerate(self._used()):
            line.setStyleSheet(WRONG if index == number else "")


class LaunchForm(QWidget):
    """All fields. `changed` is emitted when any of them is."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.images = {side: ImageField(side) for side in SIDES}
        self.run = make_line("new run: run.zarr")
        self.config = QComboBox()
        self.config.setEditable(True)
        self.config.addItems(presets())
        self.config.setCurrentText("rounds")
        self.config.setToolTip("A preset, or the path of a YAML file")
        self.overrides = Overrides()
        self.cluster = QComboBox()
        self.cluster.setEditable(True)
        self.cluster.addItems(["", *clusters()])
        line_of(self.cluster).setPlaceholderText("as configured")
        self.cluster.setToolTip("Where to run: this machine, a queue, ..., or the path of a YAML file")
        self.workers = QSpinBox()
        self.workers.setRange(0, 100000)
        self.workers.setSpecialValueText("as configured")
        self.workers.setToolTip("Worker processes")
        self.memory = make_line("such as 4GB")
        self.fields: dict[str, Field] = {
            **self.images,
            "run": Field(self.run, _browse_new(self.run)),
            "config": Field(self.config, _browse(line_of(self.config), "Choose a configuration", file=True)),
            "set": self.overrides,
            "cluster": Field(self.cluster),
            "workers": Field(self.workers),
            "memory": Field(self.memory),
        }
        titles = {"config": "preset or file", "set": "values", "memory": "memory per worker"}
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        for name, field in self.fields.items():
            form.addRow(titles.get(name, name), field)
        for image in self.images.values():
            image.changed.connect(self.changed)
        self.overrides.changed.connect(self.changed)
        for line in (self.run, self.memory):
            line.textChanged.connect(lambda _: self.changed.emit())
        for box in (self.config, self.cluster):
            box.currentTextChanged.connect(lambda _: self.changed.emit())
        self.workers.valueChanged.connect(lambda _: self.changed.emit())

    @property
    def launch(self) -> Launch:
        """What is filled in."""
        return Launch(
            self.images["fixed"].choice,
            self.images["moving"].choice,
            self.run.text().strip(),
            self.config.currentText().strip() or "rounds",
            self.overrides.items,
            self.cluster.currentText().strip(),
            self.workers.value() or None,
            self.memory.text().strip(),
        )

    def fill(self, launch: Launch) -> None:
        """Fill in everything."""
        for side, image in self.images.items():
            image.fill(getattr(launch, side))
        self.run.setText(launch.run)
        self.config.setCurrentText(launch.config)
        self.overrides.fill(launch.overrides)
        self.cluster.setCurrentText(launch.cluster)
        self.workers.setValue(launch.workers or 0)
        self.memory.setText(launch.memory)

    def tell(self, error: FieldError | None) -> None:
        """Show an error where it belongs, or none."""
        for name, field in self.fields.items():
            field.tell(str(error) if error is not None and error.place == name else "")
        self.overrides.mark(None if error is None else error.row)


def line_of(box: QComboBox) -> QLineEdit:
    line = box.lineEdit()
    assert line is not None, "an editable box has one"
    return line


def _browse(line: QLineEdit, title: str, file: bool = False) -> QPushButton:
    """A button that looks for a file; for images a folder too, as Zarr and N5 are folders."""

    def look() -> None:
        # A dialog of files does not choose folders, so the folder is asked for first.
        found = "" if file else QFileDialog.getExistingDirectory(line, f"{title} (a folder; cancel to choose a file)")
        found = found or QFileDialog.getOpenFileName(line, title)[0]
        if found:
            line.setText(found)

    return _small(title, look)


def _browse_new(line: QLineEdit) -> QPushButton:
    def look() -> None:
        found = QFileDialog.getSaveFileName(line, "Location of the run", "run.zarr")[0]
        if found:
            line.setText(found)

    return _small("Location of the run", look)


def _small(tip: str, call: Callable[[], Any]) -> QPushButton:
    made = make_button("...", tip, call)
    made.setMaximumWidth(30)
    return made
