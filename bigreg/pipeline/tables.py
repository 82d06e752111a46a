"""Tables of points through a run, a million rows at a time."""

from __future__ import annotations

import csv
import os
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from .run import Run

ROWS = 1_000_000


def map_table(run: Run, source: Path, target: Path, direction: str) -> tuple[int, int]:
    """Map the columns z, y, x (um) of a CSV; returns (points, points outside the frame they are given in).

    Other columns are kept as they are. Raises InputError for a missing file or column or a value that is no number,
    OutputError where `target` exists; the target appears when it is complete.
    """
    if target.exists():
        raise OutputError(f"'{target}' exists already; choose another output or remove it")
    if not target.parent.is_dir():
        raise OutputError(f"'{target.parent}' is no folder; choose another output or make it")
    part = target.with_name(f"{target.name}.part")
    count = outside = 0
    try:
        with open(source, newline="", encoding="utf-8-sig") as read, open(part, "w", newline="") as write:
            rows = csv.reader(read)
            header = [name.strip() for name in next(rows, [])]
            missing = [name for name in "zyx" if name not in header]
            if missing:
                raise InputError(f"'{source}' has no column {', '.join(missing)}; its header must name z, y and x (um)")
            columns = [header.index(name) for name in "zyx"]
            out = csv.writer(write)
            out.writerow(header)
            while piece := list(islice(rows, ROWS)):
                points = np.array([_numbers(source, row, columns, count + i + 2) for i, row in enumerate(piece)])
                mapped = run.map_points(points, direction)
                for row, point in zip(piece, mapped, strict=True):
                    for column, value in zip(columns, point, strict=True):
                        row[column] = f"{value:.4f}"
                out.writerows(piece)
                count += len(piece)
                outside += int(np.isnan(mapped).any(1).sum())
        os.replace(part, target)
    except FileNotFoundError as error:
        raise InputError(f"points '{source}' cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"points '{source}' is no UTF-8 text: {error}; save it as CSV in UTF-8") from error
    finally:
        part.unlink(missing_ok=True)
    return count, outside


def _numbers(source: Path, row: list[str], columns: list[int], line: int) -> list[float]:
    try:
        return [float(row[c]) for c in columns]
    except (ValueError, IndexError) as error:
        raise InputError(f"'{source}' line {line}: {row} has no three numbers in z, y, x") from error
