"""What a training says of itself: tables (CSV), TensorBoard where it is wanted, a picture of the curves."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError


class Table:
    """A CSV file with a row a step. One that exists goes on after the row of step `after`; later rows are dropped."""

    def __init__(self, path: Path, after: int) -> None:
        self.path = path
        self.rows = [row for row in read(path) if row["step"] <= after] if after else []
        self._rewrite()

    def _rewrite(self) -> None:
        temporary = self.path.with_name(self.path.name + ".part")
        with temporary.open("w", newline="") as file:
            if self.rows:
                writer = csv.DictWriter(file, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(self.rows)
        os.replace(temporary, self.path)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        row = {"step": step, **figures}
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0] if self.rows else row))
            if not self.rows:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append(row)


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a table; none where there is no file. A last row that was cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        raw = list(csv.DictReader(file))
    rows = []
    for row in raw:
        if any(v in (None, "") for v in row.values()):
            continue
        rows.append({k: int(v) if k == "step" else float(v) for k, v in row.items()})
    return rows


class Board:
    """TensorBoard's files beside the tables; nothing where it is not wanted."""

    def __init__(self, folder: Path, wanted: bool) -> None:
        self.writer: Any = None
        if wanted:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError(
                    "output.tensorboard needs the package tensorboard; pip install 'bigreg[train]', or leave it off"
                ) from error
            self.writer = SummaryWriter(str(folder / "tensorboard"))

    def add(self, group: str, step: int, figures: Mapping[str, float]) -> None:
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def plot(path: Path, losses: list[dict[str, float]], validations: list[dict[str, float]]) -> None:
    """The curves as a PNG: losses (smoothed), held-out error, rate of learning."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    steps = [row["step"] for row in losses]
    for name in [k for k in (losses[0] if losses else {}) if k not in ("step", "rate", "seconds", "gradient")]:
        left.plot(steps, _smooth([row[name] for row in losses]), label=name, lw=2 if name == "loss" else 1)
    left.set(title="losses, unweighted", xlabel="step", yscale="symlog")
    if losses:
        left.legend(fontsize=7)
    for name in ("error_voxels", "start_voxels"):
        known = [(row["step"], row[name]) for row in validations if math.isfinite(row.get(name, math.nan))]
        if known:
            middle.plot(*zip(*known, strict=True), "--" if name == "start_voxels" else "o-", ms=3, label=name)
            middle.legend(fontsize=7)
    middle.set(title="held-out error, voxels", xlabel="step", ylim=(0, None))
    right.plot(steps, [row["rate"] for row in losses])
    right.set(title="rate", xlabel="step", ylim=(0, None))
    temporary = path.with_name(path.stem + ".part.png")
    figure.savefig(temporary, dpi=110)
    os.replace(temporary, path)


def _smooth(values: list[float]) -> list[float]:
    weight = 1.0 - 1.0 / max(1.0, len(values) / 50.0)
    out, last = [], None
    for value in values:
        last = value if last is None else weight * last + (1 - weight) * value
        out.append(last)
    return out
