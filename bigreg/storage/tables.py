"""Tables as text, as people and spreadsheets save them: encodings, separators, decimal commas."""

from __future__ import annotations

import codecs
import csv
import io
import re

from ..errors import InputError

SEPARATORS = ",\t;"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NUMBER = re.compile(r"\s*[-+]?(\d+[.,]?\d*|[.,]\d+)([eE][-+]?\d+)?\s*")


def decoded(content: bytes, what: str) -> tuple[str, str]:
    """(text, encoding) of a text file's bytes: UTF-8, or else Latin-1. Raises InputError for UTF-16.

    what   what the file is called in errors, such as "points 'a.csv'"
    """
    if content.startswith(_UTF16) or b"\0" in content[:4096]:
        raise InputError(f"{what} is UTF-16 or no text; save it as text in UTF-8")
    try:
        return content.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        return content.decode("latin-1"), "latin-1"


def declared_separator(line: str) -> str | None:
    """The separator that a spreadsheet's first line "sep=;" names; None where the line is another."""
    found = re.fullmatch(r"\s*sep=(.)\s*", line.rstrip("\r\n"), re.IGNORECASE)
    return found[1] if found else None


def separator_of(line: str) -> str:
    """What separates the cells of a line; beside ; or tabs, a comma in a number separates nothing."""
    bare = re.sub(r'"[^"]*"', "", line)
    for separator in "\t;":
        cells = bare.split(separator)
        if len(cells) > 2 and all("," not in cell or _NUMBER.fullmatch(cell) for cell in cells):
            return separator
    return max(SEPARATORS, key=bare.count)


def number(cell: str, separator: str = ",") -> float:
    """The number in a cell; beside another separator its comma is a decimal sign. Raises ValueError."""
    text = cell.strip()
    if separator != "," and "," in text and "." not in text:
        text = text.replace(",", ".", 1)
    return float(text)


def table_rows(text: str) -> tuple[list[list[str]], str]:
    """(rows that are not empty, separator) of a table's text; a first line "sep=;" is obeyed and left out."""
    first, _, rest = text.partition("\n")
    declared = declared_separator(first)
    if declared is not None:
        text = rest
    lines = (line for line in text.splitlines() if line.strip())
    separator = declared or separator_of(next(lines, ""))
    rows = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    return [row for row in rows if row], separator
