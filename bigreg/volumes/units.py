"""Lengths in files to micrometres."""

from __future__ import annotations

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
}
_ALIASES = {
    "å": "angstrom",
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
}


def micrometres(unit: str | None) -> float | None:
    """How many um one `unit` is; None where the unit is missing or is no length (pixel, for instance)."""
    if not unit:
        return None
    text = str(unit).strip().strip('"').replace("\\u00B5", "µ").replace("\\u00b5", "µ")
    text = text.lower() if len(text) > 2 else text
    text = _ALIASES.get(text, text).replace("metre", "meter")
    for candidate in (text, text.removesuffix("s")):
        candidate = _ALIASES.get(candidate, candidate)
        if candidate in _UM:
            return _UM[candidate]
    return None
