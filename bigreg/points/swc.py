"""Traced neurons (.swc): a node a line, with its radius; the tree stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..storage import decoded
from .carrier import Carrier, Counts


def map_swc(source: Path, target: Path, carrier: Carrier) -> Counts:
    """Map a neuron: id, type, x, y, z, radius, parent.

    A radius grows by the cube root of the determinant of the map's derivative there: a thin neurite's volume grows as
    the tissue does, whatever the direction it runs in.
    """
    text, encoding = decoded(source.read_bytes(), f"points '{source}'")
    lines = text.splitlines()
    nodes = [i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    rows = [lines[i].split() for i in nodes]
    try:
        values = np.array([[float(v) for v in row[2:6]] for row in rows]).reshape(-1, 4)
        if any(len(row) < 7 for row in rows):
            raise ValueError("a node has seven columns: id type x y z radius parent")
    except ValueError as error:
        raise InputError(f"'{source}' is not an SWC file: {error}") from error
    points = values[:, 2::-1]
    carried = carrier(points)
    radius = values[:, 3] * np.cbrt(np.abs(carrier.volume_ratio(points)))
    for i, row, point, r in zip(nodes, rows, carried.points[:, ::-1], radius, strict=True):
        numbers = " ".join(f"{v:.{carrier.decimals}f}" for v in (*point, r))
        lines[i] = f"{row[0]} {row[1]} {numbers} {' '.join(row[6:])}"
    target.write_text("\n".join(lines) + "\n", encoding=encoding)
    return carried.counts
