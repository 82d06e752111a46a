"""Numbers in the text of a table: found and replaced in place, at the speed of a copy.

Bytes in, bytes out: whatever is not one of three columns stays as it was written.
"""

from __future__ import annotations

import numpy as np

from ..jit import compiled

NEWLINE, RETURN, QUOTE, SPACE, TAB, MINUS, PLUS, DOT, COMMA = 10, 13, 34, 32, 9, 45, 43, 46, 44


@compiled
def _number(text, start, stop):
    """(value, 1, its decimal sign or 0) of a decimal number in text[start:stop], or (0, 0, 0).

    Nothing, "nan", "inf" and their kin are NaN. The decimal sign is a point or a comma.
    """
    negative, sign = False, 0
    if start == stop:
        return np.nan, 1, 0
    if start < stop and (text[start] == MINUS or text[start] == PLUS):
        negative = text[start] == MINUS
        start += 1
    if start == stop:
        return 0.0, 0, 0
    first = text[start] | 32
    if stop - start >= 3 and (
        (first == 110 and text[start + 1] | 32 == 97) or (first == 105 and text[start + 1] | 32 == 110)
    ):
        return np.nan, 1, 0
    mantissa, digits, exponent, seen, dot = np.uint64(0), 0, 0, 0, False
    i = start
    while i < stop:
        c = text[i]
        if 48 <= c <= 57:
            seen += 1
            if digits < 18:  # more cannot be told apart in 64 bits
                mantissa = mantissa * np.uint64(10) + np.uint64(c - 48)
                digits += 1 if mantissa > 0 else 0
                exponent -= 1 if dot else 0
            elif not dot:
                exponent += 1
        elif c in (DOT, COMMA) and not dot:
            dot, sign = True, c
        else:
            break
        i += 1
    if seen == 0:
        return 0.0, 0, 0
    if i < stop:
        if text[i] | 32 != 101:
            return 0.0, 0, 0
        i += 1
        down, power = False, 0
        if i < stop and (text[i] == MINUS or text[i] == PLUS):
            down = text[i] == MINUS
            i += 1
        if i == stop:
            return 0.0, 0, 0
        while i < stop:
            if not 48 <= text[i] <= 57:
                return 0.0, 0, 0
            power = min(power * 10 + (text[i] - 48), 9999)
            i += 1
        exponent += -power if down else power
    value = np.float64(mantissa)
    # Powers of ten up to 22 are exact.
    while exponent < 0 and value != 0.0:
        step = min(-exponent, 22)
        value /= 10.0**step
        exponent += step
    while exponent > 0 and value != 0.0 and value < 1e300:
        step = min(exponent, 22)
        value *= 10.0**step
        exponent -= step
    return (-value if negative else value), 1, sign


@compiled
def find(text, separator, columns, last, values, spans, ends, marks):
    """Find the numbers of three columns in all whole rows of `text` (uint8).

    columns   (3,) numbers of the columns, ascending
    last      whether the text ends the file, so that its last row needs no newline
    values    (N, 3) float64, spans (N, 3, 2) int64, ends (N,) int64, the last byte of the row and one:
              filled for each row that is not empty
    marks     (2,) counts of numbers with a decimal comma, and with a point; a comma is none where it separates
    Returns (rows, bytes of whole rows, the row in which a number is missing or -1).
    """
    rows, i, end = 0, 0, len(text)
    done = 0
    while i < end:
        begin = i
        column, wanted, start = 0, 0, i
        quoted, empty, bad = False, True, False
        while True:
            at_end = i == end
            c = NEWLINE if at_end else text[i]
            if c == QUOTE and not at_end:
                quoted = not quoted
            elif at_end or (not quoted and c in (separator, NEWLINE)):
                if wanted < 3 and column == columns[wanted]:
                    a, b = start, i
                    while a < b and (text[a] == SPACE or text[a] == QUOTE or text[a] == TAB):
                        a += 1
                    while b > a and (
                        text[b - 1] == SPACE or text[b - 1] == QUOTE or text[b - 1] == RETURN or text[b - 1] == TAB
                    ):
                        b -= 1
                    value, ok, sign = _number(text, a, b)
                    bad = bad or ok == 0 or (sign == COMMA and separator == COMMA)
                    marks[0] += sign == COMMA
                    marks[1] += sign == DOT
                    if rows < len(values):
                        values[rows, wanted] = value
                        spans[rows, wanted, 0] = a
                        spans[rows, wanted, 1] = b
                    wanted += 1
                column += 1
                start = i + 1
                if c == NEWLINE:
                    break
            elif c != SPACE and c != RETURN and c != TAB:
                empty = False
            if c == QUOTE:
                empty = False
            i += 1
        if at_end and not last:
            return rows, done, -1
        empty = empty and column == 1
        if not empty:
            if bad or wanted < 3:
                return rows, begin, rows
            if rows < len(ends):
                ends[rows] = i - 1 if i > begin and text[i - 1] == RETURN else i
            rows += 1
        i = min(i + 1, end)
        done = i
    return rows, done, -1


@compiled
def _write(out, place, value, decimals, sign):
    """Write a number with a fixed number of decimals at out[place:]; returns the place after it."""
    if not np.isfinite(value) or abs(value) >= 1e13:
        out[place], out[place + 1], out[place + 2] = 110, 97, 110
        return place + 3
    scale = 10**decimals
    whole = np.int64(np.rint(abs(value) * scale))
    if value < 0 and whole > 0:
        out[place] = MINUS
        place += 1
    integer, rest = whole // scale, whole % scale
    digits = 1
    while integer >= 10**digits:
        digits += 1
    for k in range(digits):
        out[place + digits - 1 - k] = 48 + integer % 10
        integer //= 10
    place += digits
    if decimals:
        out[place] = sign
        for k in range(decimals):
            out[place + decimals - k] = 48 + rest % 10
            rest //= 10
        place += decimals + 1
    return place


@compiled
def replace(text, stop, spans, values, decimals, out, ends, added, digits, separator, sign):
    """Copy text[:stop] to `out` with the numbers of `values` (N, 3) at `spans`; returns how many bytes that are.

    added    (N, columns) numbers behind each row, which ends at `ends`, with `digits` (columns,) decimals
    sign     the decimal sign that is written
    """
    place, at = 0, 0
    for row in range(len(spans)):
        for k in range(3):
            for i in range(at, spans[row, k, 0]):
                out[place] = text[i]
                place += 1
            place = _write(out, place, values[row, k], decimals, sign)
            at = spans[row, k, 1]
        if len(digits):
            for i in range(at, ends[row]):
                out[place] = text[i]
                place += 1
            at = ends[row]
            for k in range(len(digits)):
                out[place] = separator
                place = _write(out, place + 1, added[row, k], digits[k], sign)
    for i in range(at, stop):
        out[place] = text[i]
        place += 1
    return place
