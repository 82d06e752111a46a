"""Tables as text (.csv, .tsv): streamed, with everything but three columns carried along byte by byte."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError, named
from ..storage import declared_separator, decoded, number, separator_of
from .carrier import Carrier, Counts
from .text_cpu import COMMA, DOT, find, replace

logger = logging.getLogger(__name__)
PIECE = 24 << 20  # bytes of text that are in hand at once
WIDEST = 24  # bytes of a number that is written
WHOLE = ("inside", "atlas_region", "atlas_side")
"""Added columns of whole numbers."""
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
                f"name those of z, y and x with {named('--columns Z,Y,X', 'columns')} (or their numbers, from 0)"
            )
    return found


def _is_number(text: str, separator: str) -> bool:
    try:
        number(text or "nan", separator)  # an empty cell is a point that has no place
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Begin:
    """How a table begins: its first bytes as they are written, whether they hold a header, how many lines they are."""

    content: bytes
    header: bool
    lines: int
    separator: str
    names: list[str]
    places: list[int]


def _numbered(names: Sequence[str], columns: Sequence[str] | None, separator: str) -> bool:
    """Whether columns are numbers of columns, and what stands there is a point: its numbers are no names."""
    if not columns or not all(column.isdigit() and int(column) < len(names) for column in columns):
        return False
    return all(_is_number(names[int(column)], separator) for column in columns)


def _begin(source: Path, read: BinaryIO, columns: Sequence[str] | None) -> _Begin:
    """A line "sep=;" of a spreadsheet, and the header or the first point."""
    first = read.readline()
    text, _ = decoded(first, f"points '{source}'")
    declared = declared_separator(text)
    before = b""
    if declared is not None:
        before, first = first, read.readline()
        text, _ = decoded(first, f"points '{source}'")
    text = text.rstrip("\r\n")
    separator = declared or separator_of(text)
    names = [name.strip() for name in next(csv.reader([text], delimiter=separator), [])]
    if _numbered(names, columns, separator):
        places = [int(column) for column in columns or ()]
    else:
        places = chosen_columns(source, names, columns)
    # Numbers where the columns' names should be are the first point.
    known = [names[i] for i in places]
    header = not all(_is_number(name, separator) for name in known) or not any(known)
    lines = (declared is not None) + 1
    return _Begin(before + first, header, lines, separator, names, places)


def map_text(source: Path, target: Path, carrier: Carrier, columns: Sequence[str] | None) -> Counts:
    """Map a CSV. While a piece is mapped the next one is read and the one before written."""
    with (
        open(source, "rb") as read,
        open(target, "wb") as write,
        ThreadPoolExecutor(1) as ahead,
        ThreadPoolExecutor(1) as behind,
    ):
        begin = _begin(source, read, columns)
        first = begin.content.removeprefix(b"\xef\xbb\xbf")
        rest = b"" if begin.header else first
        if begin.header:
            write.write(_with_names(source, first, begin, list(carrier.added)))
        elif begin.lines > 1:
            line, _, rest = first.partition(b"\n")
            write.write(line + b"\n")
        order = np.argsort(begin.places)
        back = np.argsort(order)
        counts, written = Counts(), None
        digits = np.array([0 if name in WHOLE else 4 for name in carrier.added], np.int64)
        separator = ord(begin.separator)
        parts = _pieces(source, read, rest, separator, np.sort(begin.places), begin.lines + begin.header)
        coming = ahead.submit(next, parts, None)
        while (piece := coming.result()) is not None:
            coming = ahead.submit(next, parts, None)
            text, stop, found, sign = piece
            # The columns stand in the file in an order of their own.
            carried = carrier(found.values[:, back])
            counts += carried.counts
            if written is not None:
                written.result()
            written = behind.submit(
                _put, write, text, stop, found, carried.points[:, order], carrier.decimals, carried.added, digits,
                separator, sign,
            )  # fmt: skip
        if written is not None:
            written.result()
    return counts


def _with_names(source: Path, first: bytes, begin: _Begin, added: list[str]) -> bytes:
    """A header with the names of columns that are added."""
    taken = [name for name in added if name in begin.names]
    if taken:
        raise InputError(f"'{source}' has a column {taken[0]} already; rename it")
    bare = first.rstrip(b"\r\n")
    names = "".join(begin.separator + name for name in added).encode("latin-1")
    return bare + names + (first[len(bare) :] or b"\n")


@dataclass(frozen=True, eq=False)
class _Found:
    """The numbers of some rows (N, 3), where they stand (N, 3, 2), and where the rows end (N,)."""

    values: np.ndarray
    spans: np.ndarray
    ends: np.ndarray


def _pieces(
    source: Path, file: BinaryIO, rest: bytes, separator: int, columns: np.ndarray, line: int
) -> Iterator[tuple[np.ndarray, int, _Found, int]]:
    """(text, bytes of whole rows, what is in them, decimal sign) of one piece of a file after another."""
    sign, written = 0, False
    while True:
        new = file.read(PIECE)
        text = np.frombuffer(rest + new, np.uint8)
        if not len(text):
            return
        most = int((text == 10).sum()) + 1
        values, spans = np.empty((most, 3)), np.empty((most, 3, 2), np.int64)
        ends, marks = np.empty(most, np.int64), np.zeros(2, np.int64)
        rows, stop, bad = find(text, separator, columns, not new, values, spans, ends, marks)
        if bad >= 0:
            row = bytes(text[stop : stop + 200]).split(b"\n")[0].decode(errors="replace").strip()
            raise InputError(f"'{source}' line {line + bad}: '{row}' has no three numbers in the columns of z, y and x")
        if not stop and len(text) > 2 * PIECE:
            raise InputError(f"'{source}' line {line}: a quotation mark is opened and not closed; correct that row")
        if marks.all() or (marks[0] and (sign == DOT or (written and sign != COMMA))) or (marks[1] and sign == COMMA):
            raise InputError(
                f"'{source}' has numbers with a decimal comma and others with a point; use one decimal sign"
            )
        if marks[0] and sign != COMMA:
            logger.warning("'%s': commas in its numbers are decimal signs, and are written as such", source)
        sign = COMMA if marks[0] else DOT if marks[1] else sign
        if stop:
            written = written or rows > 0
            yield text, stop, _Found(values[:rows], spans[:rows], ends[:rows]), sign or DOT
        if not new:
            return
        line += rows
        rest = text[stop:].tobytes()


def _put(
    file: BinaryIO,
    text: np.ndarray,
    stop: int,
    found: _Found,
    values: np.ndarray,
    decimals: int,
    added: np.ndarray,
    digits: np.ndarray,
    separator: int,
    sign: int,
) -> None:
    out = np.empty(stop + (3 + len(digits)) * WIDEST * len(values), np.uint8)
    values, added = np.ascontiguousarray(values), np.ascontiguousarray(added)
    size = replace(text, stop, found.spans, values, decimals, out, found.ends, added, digits, separator, sign)
    file.write(out[:size].data)
