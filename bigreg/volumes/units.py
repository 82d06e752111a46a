"""Lengths in files to micrometres, times to seconds, and numbers in headers: one that cannot be read is not stated."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

_UM = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "inch": 25400.0,
    "thou": 25.4,
    "foot": 304800.0,
    "kilometer": 1e9,
    "femtometer": 1e-9,
}
# The micro sign as a Greek letter, escaped, or decoded wrongly.
_MICRO = ("\\u00B5", "\\u00b5", "\\xb5", "Âµ", "Î¼", "μ", "&#181;", "&micro;", "\ufffd")
_ALIASES = {
    "å": "angstrom",
    "Å": "angstrom",
    "\u212b": "angstrom",  # the sign of the unit
    "ångström": "angstrom",
    "fm": "femtometer",
    "km": "kilometer",
    "mil": "thou",
    "ft": "foot",
    "pm": "picometer",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",  # micro sign
    "μm": "micrometer",  # Greek mu
    "micron": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
    "in": "inch",
    "inche": "inch",  # inches
}


def micrometres(unit: str | bytes | None) -> float | None:
    """How many um one `unit` is; None where the unit is missing or is no length (pixel, for instance)."""
    if not unit:
        return None
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    text = text.strip().strip("\"'").strip()
    for written in (
        "\\u00B5",
        "\\u00b5",
        "\\xb5",
        "Âµ",
        "Î¼",
        "μ",
        "&#181;",
        "&micro;",
        "\ufffd",
    ):  # micro, escaped or misread
        text = text.replace(written, "µ")
    text = text.lower() if len(text) > 2 else text
    text = _ALIASES.get(text, text).replace("metre", "meter")
    for candidate in (text, text.removesuffix("s")):
        candidate = _ALIASES.get(candidate, candidate)
        if candidate in _UM:
            return _UM[candidate]
    return None


_SECONDS = {
    **dict.fromkeys(("s", "sec", "second"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond"), 1e-3),
    **dict.fromkeys(("us", "µs", "μs", "usec", "microsecond"), 1e-6),
    **dict.fromkeys(("ns", "nsec", "nanosecond"), 1e-9),
    **dict.fromkeys(("min", "minute"), 60.0),
    **dict.fromkeys(("h", "hr", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
}


def seconds(unit: str | None) -> float | None:
    """How many seconds one `unit` is; None where the unit is missing or is no time (frame, for instance)."""
    text = (unit or "").strip().lower()
    return _SECONDS.get(text, _SECONDS.get(text.removesuffix("s")))


def number(value: Any) -> float | None:
    """A finite number in a header, however it is kept; None where it is none ("3,25", NaN, text)."""
    try:
        if isinstance(value, bytes):
            value = value.decode()
        found = float(value)
    except (TypeError, ValueError, UnicodeDecodeError):
        return None
    return found if math.isfinite(found) else None


def numbers(values: Any, count: int | None = None, *, positive: bool = False) -> list[float] | None:
    """`count` finite numbers; None where there are fewer or more, or one is none (or not above 0, with `positive`)."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return None
    found = []
    for value in values:
        if (each := number(value)) is None:
            return None
        found.append(each)
    if (count is not None and len(found) != count) or (positive and min(found, default=1) <= 0):
        return None
    return found


def figures(values: Iterable[float]) -> str:
    """Numbers as messages have them: (3, 1.5, 0.7)."""
    return f"({', '.join(f'{float(value):.6g}' for value in values)})"


# um: beyond these a voxel size is more likely a wrong unit than an image.
SMALLEST, LARGEST, MOST_ANISOTROPIC = 1e-3, 1e3, 50.0


def implausible(spacing: Iterable[float]) -> str:
    """Why a voxel size (um) is likely a wrong unit, as words for a message; empty where it is plausible."""
    smallest, *_, largest = sorted(float(value) for value in spacing)
    if largest > LARGEST * (1 + 1e-6):
        return "is above 1 mm"
    if smallest < SMALLEST * (1 - 1e-6):
        return "is below 1 nm"
    if largest > MOST_ANISOTROPIC * smallest * (1 + 1e-6):
        return f"differs more than {MOST_ANISOTROPIC:g} times between axes"
    return ""
