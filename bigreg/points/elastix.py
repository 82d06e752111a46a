"""The points of elastix and transformix: "point" or "index", their number, then x y z a line."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import InputError
from .carrier import Carrier, Counts

ROWS = 1 << 18
KINDS = ("point", "index")


def kind_of(source: Path) -> str:
    """What the numbers of a file are. Raises InputError where it is no file of elastix."""
    with open(source, encoding="utf-8", errors="replace") as file:
        kind = file.readline().strip().lower()
    if kind not in KINDS:
        raise InputError(f"'{source}' begins with '{kind[:40]}'; a points file of elastix begins with point or index")
    return kind


def map_elastix(source: Path, target: Path, carrier: Carrier, kind: str) -> Counts:
    """Map a file; `kind` is what is written."""
    counts = Counts()
    with open(source, encoding="latin-1") as read, open(target, "w", encoding="utf-8", newline="\n") as write:
        read.readline()
        number = read.readline().strip()
        if not number.isdigit():
            raise InputError(f"'{source}' line 2: '{number}' is not a number of points")
        write.write(f"{kind}\n{number}\n")
        lines = (line for line in read if line.strip())
        while piece := list(islice(lines, ROWS)):
            try:
                points = np.array([[float(v) for v in line.split()] for line in piece])
                if points.shape[1:] != (3,):
                    raise ValueError(f"{points.shape[1:]} numbers a line")
            except ValueError as error:
                raise InputError(f"'{source}': {error}; every line after the second has x y z") from error
            carried = carrier(points[:, ::-1])
            counts += carried.counts
            rows = carried.points[:, ::-1]
            write.writelines(" ".join(f"{v:.{carrier.decimals}f}" for v in row) + "\n" for row in rows)
    if counts.points != int(number):
        raise InputError(f"'{source}' announces {number} points and has {counts.points}; correct its second line")
    return counts
