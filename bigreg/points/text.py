"""Tables as text (.csv, .tsv): streamed, with everything but three columns carried along byte by byte."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError
from .carrier import Carrier, Counts
from .text_cpu import find, replace

PIECE = 24 << 20  # bytes of text that are in hand at once
WIDEST = 24  # bytes of a number that is written
SEPARATORS = ",\t;"
NAPARI = ("axis-0", "axis-1", "axis-2")
"""Columns of a layer of points that napari saved."""


def chosen_columns(source: Path, names: Sequence[str], columns: Sequence[str] | None) -> list[int]:
    """Places of z, y and x in a header. Raises InputError where a column is missing."""
    napari = columns is None and [n for n in names if n.startswith("axis-")] == list(NAPARI)  # one more would be time
    wanted = list(columns or (NAPARI if napari else "zyx"))
    found = []
    for name in wanted:
        if name in names:
            found.append(list(names).index(name))
        elif columns is None and name.upper() in names:
            found.append(list(names).index(name.upper()))
        elif name.isdigit() and int(name) < len(names):
            found.append(int(name))
        else:
            raise InputError(
                f"'{source}' has no column {name}; it has {', '.join(names) or 'none'}; "
                "name those of z, y and x with --columns Z,Y,X (or their numbers, from 0)"
            )
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _header(source: Path, line: bytes, columns: Sequence[str] | None) -> tuple[bool, int, list[int]]:
    """Whether there is a header, the separator, and the places of z, y, x."""
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"points '{source}' is no UTF-8 text: {error}; save it as CSV in UTF-8") from error
    separator = max(SEPARATORS, key=text.count)
    names = [name.strip() for name in next(csv.reader([text], delimiter=separator), [])]
    places = chosen_columns(source, names, columns)
    # Numbers where the columns' names should be are the first point.
    return not all(_is_number(names[i]) for i in places), ord(separator), places


def map_text(source: Path, target: Path, carrier: Carrier, columns: Sequence[str] | None) -> Counts:
    """Map a CSV. While a piece is mapped the next one is read and the one before written."""
    with (
        open(source, "rb") as read,
        open(target, "wb") as write,
        ThreadPoolExecutor(1) as ahead,
        ThreadPoolExecutor(1) as behind,
    ):
        first = read.readline()
        has_header, separator, places = _header(source, first, columns)
        begin = first.removeprefix(b"\xef\xbb\xbf")
        if has_header:
            write.write(begin if begin.endswith(b"\n") else begin + b"\n")
        order = np.argsort(places)
        back = np.argsort(order)
        counts, written = Counts(), None
        parts = _pieces(source, read, b"" if has_header else begin, separator, np.sort(places), 1 + has_header)
        coming = ahead.submit(next, parts, None)
        while (piece := coming.result()) is not None:
            coming = ahead.submit(next, parts, None)
            text, stop, values, spans = piece
            # The columns stand in the file in an order of their own.
            mapped = carrier(values[:, back])
            counts += Counts(len(mapped), int(np.isnan(mapped).any(1).sum()))
            if written is not None:
                written.result()
            written = behind.submit(_put, write, text, stop, spans, mapped[:, order], carrier.decimals)
        if written is not None:
            written.result()
    return counts


def _pieces(
    source: Path, file: BinaryIO, rest: bytes, separator: int, columns: np.ndarray, line: int
) -> Iterator[tuple[np.ndarray, int, np.ndarray, np.ndarray]]:
    """(text, bytes of whole rows, values (N, 3), spans) of one piece of a file after another."""
    while True:
        new = file.read(PIECE)
        text = np.frombuffer(rest + new, np.uint8)
        if not len(text):
            return
        most = int((text == 10).sum()) + 1
        values, spans = np.empty((most, 3)), np.empty((most, 3, 2), np.int64)
        rows, stop, bad = find(text, separator, columns, not new, values, spans)
        if bad >= 0:
            row = bytes(text[stop : stop + 200]).split(b"\n")[0].decode(errors="replace").strip()
            raise InputError(f"'{source}' line {line + bad}: '{row}' has no three numbers in the columns of z, y and x")
        if not stop and len(text) > 2 * PIECE:
            raise InputError(f"'{source}' line {line}: a quotation mark is opened and not closed; mend that row")
        if stop:
            yield text, stop, values[:rows], spans[:rows]
        if not new:
            return
        line += rows
        rest = text[stop:].tobytes()


def _put(file: BinaryIO, text: np.ndarray, stop: int, spans: np.ndarray, values: np.ndarray, decimals: int) -> None:
    out = np.empty(stop + 3 * WIDEST * len(values), np.uint8)
    size = replace(text, stop, spans, np.ascontiguousarray(values), decimals, out)
    file.write(out[:size].data)
